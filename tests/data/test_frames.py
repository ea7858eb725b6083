from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ringworld.core.errors import InputError
from ringworld.data.config import PrepareConfig
from ringworld.data.find_sources import find_sources
from ringworld.data.frames import FrameSample, read_spread, sample_frames, stream_frames
from ringworld.data.readers.text import TEXT
from ringworld.data.samples import MediaFile
from ringworld.data.sources import Source


def video(path: Path) -> MediaFile:
    return MediaFile(path=path, form="video")


def sampled(sources: Sequence[Source], *, most_frames: int) -> FrameSample:
    return sample_frames(sources, most_frames=most_frames, config=PrepareConfig(), resolution=32)


def numbers(frames: np.ndarray) -> list[int]:
    """Return which frame of a written clip each is, by its brightness."""
    return np.rint(frames.mean(axis=(1, 2, 3)) / 8).astype(int).tolist()


def test_a_long_video_is_thinned_to_frames_that_span_it(tmp_path: Path, write_clip):
    source = video(write_clip(tmp_path / "a.mp4", frames=20))
    for most, expected in ((4, [0, 4, 8, 16]), (30, list(range(20))), (1, [0])):
        config = PrepareConfig(max_frames=most, frames_per_second=4.0)
        assert numbers(read_spread(source, config=config, resolution=32)) == expected


def test_an_image_is_a_video_of_one_frame(tmp_path: Path, write_clip):
    image = MediaFile(path=write_clip(tmp_path / "a.png", frames=3), form="image")
    assert len(read_spread(image, config=PrepareConfig(), resolution=32)) == 1
    assert len(list(stream_frames(image, config=PrepareConfig(), resolution=32))) == 1


def test_frames_are_sampled_from_all_files_of_a_split_and_bad_files_are_quarantined(
    tmp_path: Path, write_clip
):
    for index in range(4):
        write_clip(tmp_path / f"{index}.mp4", frames=6)
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    sources = find_sources(videos=[tmp_path], texts=[], config=PrepareConfig(held_out_fraction=0.0))
    sample = sampled(sources, most_frames=10)
    assert len(sample.train) + len(sample.held_out) == 8
    assert [item.path for item in sample.quarantined] == ["bad.mp4"]
    assert "bad.mp4" in sample.quarantined[0].reason
    few = sampled(sources, most_frames=3)
    assert len(few.train) + len(few.held_out) <= 3


def test_files_that_are_held_out_judge(tmp_path: Path, write_clip):
    write_clip(tmp_path / "a.mp4", frames=20)
    write_clip(tmp_path / "held_out/b.mp4", frames=19)
    sample = sampled(find_sources(videos=[tmp_path], texts=[], config=PrepareConfig()), most_frames=20)
    assert (len(sample.train), len(sample.held_out)) == (20, 2)
    assert sample.held_out_of == "files held out"


def test_the_end_of_the_only_video_is_held_out(tmp_path: Path, write_clip):
    clip = write_clip(tmp_path / "a.mp4", frames=20)
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:-400])
    sample = sampled(find_sources(videos=[tmp_path], texts=[], config=PrepareConfig()), most_frames=40)
    assert numbers(sample.train) == list(range(18))
    assert numbers(sample.held_out) == [18, 19]
    assert sample.held_out_of == "files trained on"


def test_one_frame_cannot_both_train_and_judge(tmp_path: Path, write_clip):
    sources = find_sources(videos=[write_clip(tmp_path / "a.png")], texts=[], config=PrepareConfig())
    with pytest.raises(InputError) as caught:
        sampled(sources, most_frames=4)
    assert caught.value.field == "videos"


def test_no_frame_at_all_is_an_error(tmp_path: Path):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    sources = find_sources(videos=[tmp_path], texts=[], config=PrepareConfig())
    texts = [Source(path=tmp_path / "a.txt", relative="a.txt", reader=TEXT)]
    for given in (sources, texts, []):
        with pytest.raises(InputError) as caught:
            sampled(given, most_frames=4)
        assert caught.value.field == "videos"
