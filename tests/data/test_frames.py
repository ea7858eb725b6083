from pathlib import Path

import numpy as np
import pytest

from ringworld.core.errors import InputError
from ringworld.data.config import PrepareConfig
from ringworld.data.frames import read_spread, read_windows, sample_frames
from ringworld.data.sources import Source, find_sources


def video(path: Path) -> Source:
    return Source(path=path, relative=path.name, format="video")


def numbers(frames: np.ndarray) -> list[int]:
    """Return which frame of a written clip each is, by its brightness."""
    return np.rint(frames.mean(axis=(1, 2, 3)) / 8).astype(int).tolist()


def test_a_long_video_is_thinned_to_frames_that_span_it(tmp_path: Path, write_clip):
    source = video(write_clip(tmp_path / "a.mp4", frames=20))
    read = {"frames_per_second": 4.0, "resolution": 32}
    assert numbers(read_spread(source, most_frames=4, **read)) == [0, 4, 8, 16]
    assert numbers(read_spread(source, most_frames=30, **read)) == list(range(20))
    assert numbers(read_spread(source, most_frames=1, **read)) == [0]


def test_windows_give_every_frame_once(tmp_path: Path, write_clip):
    source = video(write_clip(tmp_path / "a.mp4", frames=10))
    windows = read_windows(source, config=PrepareConfig(max_frames=4), resolution=32)
    assert [numbers(window) for window in windows] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_an_image_is_a_video_of_one_frame(tmp_path: Path, write_clip):
    path = write_clip(tmp_path / "a.png", frames=3)
    source = Source(path=path, relative="a.png", format="image")
    assert len(read_spread(source, most_frames=8, frames_per_second=4.0, resolution=32)) == 1
    assert len(list(read_windows(source, config=PrepareConfig(), resolution=32))) == 1


def test_frames_are_sampled_from_all_files_of_a_split_and_bad_files_are_told(tmp_path: Path, write_clip):
    for index in range(4):
        write_clip(tmp_path / f"{index}.mp4", frames=6)
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    sources = find_sources(videos=[tmp_path], texts=[], config=PrepareConfig(held_out_fraction=0.0))
    read = {"split": "train", "frames_per_second": 4.0, "resolution": 32}
    sample = sample_frames(sources, most_frames=10, **read)
    assert sample.frames.shape == (8, 32, 32, 3)
    assert [item.path for item in sample.quarantined] == ["bad.mp4"]
    assert "bad.mp4" in sample.quarantined[0].reason
    assert len(sample_frames(sources, most_frames=2, **read).frames) <= 2


def test_no_frame_at_all_is_an_error(tmp_path: Path):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    sources = find_sources(videos=[tmp_path], texts=[], config=PrepareConfig())
    read = {"most_frames": 4, "frames_per_second": 4.0, "resolution": 32}
    with pytest.raises(InputError, match=r"bad\.mp4"):
        sample_frames(sources, split="train", **read)
    with pytest.raises(InputError, match="two videos or more"):
        sample_frames(sources, split="held_out", **read)
