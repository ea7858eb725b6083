"""Files that users bring, made by PyAV and Pillow: what is read from each, or why it is refused."""

import itertools
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
from av.container import OutputContainer
from PIL import Image

from ringworld.core.errors import InputError
from ringworld.vision.config import MediaLimits
from ringworld.vision.media import fit_frame, read_image, stream_video

LEVEL = 8  # frame number n is a plain grey of 8 n


def grey_frames(count: int, *, height: int = 32, width: int = 32) -> np.ndarray:
    return np.stack([np.full((height, width, 3), LEVEL * n % 256, np.uint8) for n in range(count)])


def write_movie(
    path: Path,
    frames: np.ndarray,
    *,
    times_milliseconds: list[int] | None = None,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    key_frame_every: int = 12,
    sound: bool = False,
    options: dict[str, str] | None = None,
) -> Path:
    times_milliseconds = times_milliseconds or [100 * n for n in range(len(frames))]
    with av.open(str(path), "w", options=options or {}) as container:
        stream = cast(av.VideoStream, container.add_stream(codec, rate=10))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.gop_size = pix_fmt, key_frame_every
        stream.codec_context.time_base = Fraction(1, 1000)
        if sound:
            add_sound(container, seconds=len(frames) / 10)
        for pixels, milliseconds in zip(frames, times_milliseconds):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = milliseconds, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def add_sound(container: OutputContainer, *, seconds: float) -> None:
    stream = container.add_stream("aac", rate=8000)
    stream.layout = "mono"
    samples = np.zeros((1, int(8000 * seconds)), np.float32)
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
    frame.sample_rate = 8000
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def read(path: Path, *, rate: float = 10, most_frames: int | None = None, **options) -> list[int]:
    stream = stream_video(path, frames_per_second=rate, resolution=32, **options)
    return [round(frame.mean() / LEVEL) for _, frame in itertools.islice(stream, most_frames)]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_frames_are_chosen_by_their_time(tmp_path, suffix):
    codec = "mpeg4" if suffix == ".avi" else "libx264"
    path = write_movie(tmp_path / f"movie{suffix}", grey_frames(10), codec=codec)
    assert read(path, rate=4) == [0, 2, 5, 7]
    times, frames = zip(*stream_video(path, frames_per_second=4, resolution=16))
    assert {frame.shape for frame in frames} == {(16, 16, 3)}
    assert times == (0, 0.25, 0.5, 0.75)


def test_a_variable_rate_is_followed(tmp_path):
    times = [0, 100, 150, 900, 1000]
    path = write_movie(tmp_path / "variable.mkv", grey_frames(5), times_milliseconds=times)
    assert read(path, rate=4)[:5] == [0, 2, 2, 2, 4]


def test_a_slow_video_repeats_frames(tmp_path):
    path = write_movie(tmp_path / "slow.mp4", grey_frames(3))
    assert read(path, rate=20) == [0, 0, 1, 1, 2, 2]


def test_start_and_number_of_frames(tmp_path):
    path = write_movie(tmp_path / "movie.mp4", grey_frames(20))
    assert read(path, rate=5, start_seconds=0.6, most_frames=3) == [6, 8, 10]
    with pytest.raises(InputError, match=r"ends before 3 s"):
        read(path, start_seconds=3)


@pytest.mark.parametrize("key_frame_every", [10, 1000])
def test_wide_distances_are_crossed_whether_or_not_seeking_helps(tmp_path, key_frame_every):
    path = write_movie(tmp_path / "long.mp4", grey_frames(300), key_frame_every=key_frame_every)
    expected = [n % 32 for n in (5, 85, 165, 245)]
    assert read(path, rate=1 / 8, start_seconds=0.5) == expected


def test_a_stream_decodes_no_further_than_it_is_read(tmp_path):
    path = write_movie(tmp_path / "movie.mp4", grey_frames(100))
    stream = stream_video(path, frames_per_second=10, resolution=16)
    times = [seconds for seconds, _ in itertools.islice(stream, 2)]
    assert times == [0, 0.1]


def test_rotation_metadata_turns_the_picture(tmp_path):
    frames = np.zeros((3, 32, 64, 3), np.uint8)
    frames[:, :, :32] = 255  # the left half is white
    path = write_movie(tmp_path / "turned.mp4", frames)
    one, minus_one = (1 << 16).to_bytes(4), (-1 << 16).to_bytes(4, signed=True)
    zero = bytes(4)
    upright = one + zero * 3 + one + zero * 3
    clockwise = zero + one + zero + minus_one + zero * 4
    content = path.read_bytes()
    track = content.index(b"tkhd")
    assert upright in content[track : track + 100]
    path.write_bytes(content[:track] + content[track:].replace(upright, clockwise, 1))
    _, frame = next(stream_video(path, frames_per_second=1, resolution=32))
    assert frame[:14].min() > 240 and frame[18:].max() < 15


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "height", "width"),
    [("libx264", "yuv420p10le", 32, 48), ("libvpx-vp9", "yuv420p", 33, 47), ("libx264", "yuv444p", 47, 33)],
)
def test_ten_bits_odd_sizes_and_full_color(tmp_path, codec, pix_fmt, height, width):
    path = write_movie(
        tmp_path / "movie.mp4", grey_frames(4, height=height, width=width), codec=codec, pix_fmt=pix_fmt
    )
    assert read(path) == [0, 1, 2, 3]


def test_sound_beside_the_picture(tmp_path):
    path = write_movie(tmp_path / "sound.mp4", grey_frames(10), sound=True)
    assert read(path) == list(range(10))


def test_gif_of_one_frame_without_a_rate(tmp_path):
    path = tmp_path / "one.gif"
    Image.fromarray(grey_frames(9)[8]).save(path)
    assert read(path, rate=1) == [8]


def test_many_frames_of_an_animated_gif(tmp_path):
    path = tmp_path / "moving.gif"
    images = [Image.fromarray(frame) for frame in grey_frames(4)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=250)
    assert read(path, rate=4) == [0, 1, 2, 3]


def refusal(path: Path, **options) -> str:
    with pytest.raises(InputError) as caught:
        read(path, **options)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_files_that_are_no_video(tmp_path):
    empty, folder, text = tmp_path / "empty.mp4", tmp_path / "folder.mp4", tmp_path / "text.mp4"
    empty.touch()
    folder.mkdir()
    text.write_text("not a film\n" * 100)
    assert "no such file" in refusal(tmp_path / "missing.mp4")
    assert "an empty file" in refusal(empty)
    assert "a folder" in refusal(folder)
    assert "not a media file" in refusal(text)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_image_that_is_called_a_video(tmp_path, kind):
    path = tmp_path / "picture.mp4"
    Image.new("RGB", (64, 64)).save(path, kind)
    assert f"a {kind} image" in refusal(path)


def test_sound_alone(tmp_path):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        add_sound(container, seconds=1)
    assert "only sound" in refusal(path)


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), np.uint8)


def cut(path: Path, fraction: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])
    return path


def test_mp4_without_its_index(tmp_path):
    path = cut(write_movie(tmp_path / "recording.mp4", noise(10)), 0.5)
    assert "without an index (moov)" in refusal(path)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [("cut.mp4", "libx264", {"movflags": "faststart"}), ("cut.mkv", "libx264", {}), ("cut.avi", "mpeg4", {})],
)
def test_a_video_that_was_cut_says_how_much_could_be_read(tmp_path, name, codec, options):
    path = write_movie(tmp_path / name, noise(40), codec=codec, options=options, key_frame_every=5)
    message = refusal(cut(path, 0.5))
    seconds = float(message.split("of which ")[1].split(" s")[0])
    assert "of 4.0" in message and 0.5 < seconds < 3.5


def test_a_damaged_video_is_read_as_far_as_asked_before_the_damage(tmp_path):
    path = write_movie(tmp_path / "cut.mp4", noise(40), options={"movflags": "faststart"}, key_frame_every=5)
    assert len(read(cut(path, 0.5), most_frames=5)) == 5


def test_bombs(tmp_path):
    path = write_movie(tmp_path / "movie.mp4", grey_frames(20, height=32, width=64))
    assert "64 x 32 pixels" in refusal(path, limits=MediaLimits(frame_pixels=2000))
    assert "64 x 32 pixels" in refusal(path, limits=MediaLimits(aspect_ratio=1.5))
    assert "a video of 2 s" in refusal(path, limits=MediaLimits(duration_seconds=1.0))


@pytest.mark.parametrize("bad", [{"frames_per_second": 0.0}, {"start_seconds": -1.0}, {"resolution": 0}])
def test_arguments_are_checked(tmp_path, bad):
    path = write_movie(tmp_path / "movie.mp4", grey_frames(2))
    with pytest.raises(InputError, match=next(iter(bad))):
        next(stream_video(path, **({"frames_per_second": 1.0, "resolution": 32} | bad)))


def test_ffmpeg_is_silent(tmp_path, capfd):
    refusal(cut(write_movie(tmp_path / "cut.mp4", noise(20), options={"movflags": "faststart"}), 0.5))
    refusal(cut(write_movie(tmp_path / "recording.mp4", noise(10)), 0.5))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "P", "1", "I;16", "RGBA", "LA"])
def test_every_color_mode_of_an_image(tmp_path, mode):
    grey = Image.new("L", (40, 32), 255)
    if mode == "I;16":
        image = Image.fromarray(np.full((32, 40), 65535, np.uint16))
    else:
        image = grey.convert("RGB").convert(mode)
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    image.save(path)
    assert read_image(path, resolution=32).min() > 250


def test_transparent_parts_are_white(tmp_path):
    path = tmp_path / "clear.png"
    image = Image.new("P", (32, 32), 0)
    image.putpalette([200, 0, 0] * 256)
    image.save(path, transparency=bytes(256))
    assert read_image(path, resolution=32).min() == 255


def test_exif_rotation(tmp_path):
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:, :32] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to show
    path = tmp_path / "phone.png"
    Image.fromarray(pixels).save(path, exif=exif)
    frame = read_image(path, resolution=32)
    assert frame[:14].min() == 255 and frame[18:].max() == 0


def test_files_that_are_no_image(tmp_path):
    text, damaged, large = tmp_path / "text.png", tmp_path / "cut.jpg", tmp_path / "large.png"
    text.write_text("no picture")
    Image.fromarray(noise(1)[0]).save(damaged)
    cut(damaged, 0.5)
    Image.new("RGB", (300, 100)).save(large)
    limits = MediaLimits(frame_pixels=20_000)
    for path, reason in ((text, "not an image"), (damaged, "damaged JPEG"), (large, "300 x 100 pixels")):
        with pytest.raises(InputError, match=reason):
            read_image(path, resolution=32, limits=limits)


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (97, 33), (33, 97), (20, 20), (7, 31)])
def test_fit_frame_is_lwm_to_the_pixel(size):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*size[::-1], 3), np.uint8))
    width, height = size
    scaled = (32, int(32 * height / width)) if width < height else (int(32 * width / height), 32)
    left, top = (scaled[0] - 32) / 2, (scaled[1] - 32) / 2
    expected = image.resize(scaled).crop((left, top, (scaled[0] + 32) / 2, (scaled[1] + 32) / 2))
    np.testing.assert_array_equal(fit_frame(image, 32), np.asarray(expected))
