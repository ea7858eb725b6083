from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from ringworld.core.errors import InputError
from ringworld.vision.media import stream_video
from ringworld.vision.write_media import write_image, write_video

FRAMES = np.stack([np.full((17, 15, 3), 40 * n, np.uint8) for n in range(5)])


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_a_video_that_browsers_show(tmp_path, scale):
    path = tmp_path / "new folder" / "movie.mp4"
    write_video(path, FRAMES, frames_per_second=8, scale=scale)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        expected = {1: (16, 18), 2: (30, 34), 4: (60, 68)}
        assert (stream.width, stream.height) == expected[scale]
        assert stream.average_rate == 8
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    read = np.stack([frame for _, frame in stream_video(path, frames_per_second=8, resolution=14)])
    assert np.abs(read.mean((1, 2, 3)) - FRAMES.mean((1, 2, 3))).max() < 3


@pytest.mark.parametrize("name", ["12:30.mp4", "-i.mp4", "file:a.mp4", "pipe:.mp4", "a%20b?c#d.mp4"])
def test_a_name_is_that_of_a_file_whatever_it_begins_like(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_video(Path(name), FRAMES[:2], frames_per_second=8)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert len(list(stream_video(Path(name), frames_per_second=8, resolution=8))) == 2


def test_the_same_frames_are_the_same_bytes(tmp_path):
    written = []
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, FRAMES, frames_per_second=8)
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    # x264 notes its settings in the file: those without which bytes differ now and then.
    assert b" threads=1 " in written[0] and b" mbtree=0 " in written[0]


def test_a_failed_video_leaves_nothing_and_keeps_the_old_one(tmp_path):
    path = tmp_path / "movie.mp4"
    write_video(path, FRAMES, frames_per_second=8)
    before = path.read_bytes()
    with pytest.raises(InputError) as caught:
        write_video(path, FRAMES[:0], frames_per_second=8)
    assert caught.value.path == path
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_an_image_is_exact_and_enlarged_by_squares(tmp_path):
    frame = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    write_image(tmp_path / "image.png", frame, scale=3)
    with Image.open(tmp_path / "image.png") as image:
        enlarged = np.asarray(image)
    assert enlarged.shape == (15, 21, 3)
    np.testing.assert_array_equal(enlarged[1::3, 1::3], frame)
    np.testing.assert_array_equal(enlarged[2::3, ::3], frame)


def test_endings_are_checked(tmp_path):
    with pytest.raises(InputError) as caught:
        write_image(tmp_path / "image.webp", FRAMES[0])
    assert caught.value.path == tmp_path / "image.webp"
    with pytest.raises(InputError) as caught:
        write_video(tmp_path / "movie.avi", FRAMES, frames_per_second=8)
    assert caught.value.path == tmp_path / "movie.avi"
