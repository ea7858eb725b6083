"""Files that users bring, made by PyAV and Pillow: what is read from each, or why it is refused."""

import itertools
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
from av.container import OutputContainer
from av.stream import Disposition
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ringworld.core.errors import InputError
from ringworld.vision.bitstream import BitstreamCheck
from ringworld.vision.config import MediaLimits
from ringworld.vision.media import (
    check_video,
    fit_frame,
    media_format,
    read_image,
    stream_video,
    stream_wanted,
)

LEVEL = 8  # frame number n is a plain grey of 8 n


def grey_frames(count: int, *, height: int = 32, width: int = 32) -> np.ndarray:
    return np.stack([np.full((height, width, 3), LEVEL * n % 256, np.uint8) for n in range(count)])


def write_movie(
    path: Path,
    frames: np.ndarray,
    *,
    times_milliseconds: list[int] | None = None,
    rate: int = 10,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    key_frame_every: int = 12,
    sound_seconds: float = 0.0,
    pixel_aspect: Fraction | None = None,
    options: dict[str, str] | None = None,
    codec_options: dict[str, str] | None = None,
) -> Path:
    times_milliseconds = times_milliseconds or [100 * n for n in range(len(frames))]
    with av.open(str(path), "w", options=options or {}) as container:
        stream = cast(av.VideoStream, container.add_stream(codec, rate=rate, options=codec_options))
        stream.height, stream.width = frames.shape[1:3]
        if pixel_aspect:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        stream.pix_fmt, stream.gop_size = pix_fmt, key_frame_every
        if codec not in ("flv", "mpeg2video", "mjpeg"):  # which know rates, not times
            stream.codec_context.time_base = Fraction(1, 1000)
        if sound_seconds:
            add_sound(container, seconds=sound_seconds)
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
    assert refusal(path, start_seconds=3).field == "start_seconds"


@pytest.mark.parametrize("key_frame_every", [10, 1000])
def test_wide_distances_are_crossed_whether_or_not_seeking_helps(tmp_path, key_frame_every):
    path = write_movie(tmp_path / "long.mp4", grey_frames(300), key_frame_every=key_frame_every)
    expected = [n % 32 for n in (5, 85, 165, 245)]
    assert read(path, rate=1 / 8, start_seconds=0.5) == expected


def test_frames_that_are_not_wanted_have_no_pixels(tmp_path):
    path = write_movie(tmp_path / "movie.mp4", grey_frames(10))
    stream = list(
        stream_wanted(path, wanted=lambda index: index % 3 == 0, frames_per_second=10, resolution=32)
    )
    assert [seconds for seconds, _ in stream] == [index / 10 for index in range(10)]
    shown = {
        index: round(frame.mean() / LEVEL) for index, (_, frame) in enumerate(stream) if frame is not None
    }
    assert shown == {0: 0, 3: 3, 6: 6, 9: 9}


def test_a_stream_decodes_no_further_than_it_is_read(tmp_path):
    path = write_movie(tmp_path / "movie.mp4", grey_frames(100))
    stream = stream_video(path, frames_per_second=10, resolution=16)
    times = [seconds for seconds, _ in itertools.islice(stream, 2)]
    assert times == [0, 0.1]


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
    path = write_movie(tmp_path / "sound.mp4", grey_frames(10), sound_seconds=1)
    assert read(path) == list(range(10))


def test_the_picture_may_begin_after_the_sound_and_end_before_it(tmp_path):
    for suffix in (".mp4", ".mkv"):
        times = [3000 + 100 * n for n in range(20)]
        path = write_movie(
            tmp_path / f"late{suffix}", grey_frames(20), times_milliseconds=times, sound_seconds=8
        )
        assert read(path) == list(range(20))
        assert read(path, start_seconds=1.5) == [15, 16, 17, 18, 19]
        check_video(path)


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        (".mkv", "libx264"),
        (".webm", "libvpx-vp9"),
        (".mp4", "libx264"),
        (".mov", "libx264"),
        (".flv", "libx264"),
        (".ts", "libx264"),
        (".mpg", "mpeg2video"),
    ],
)
def test_the_first_picture_may_stand_late(tmp_path, suffix, codec):
    times = [5000 + 40 * n for n in range(50)]
    path = write_movie(
        tmp_path / f"late{suffix}", grey_frames(50), times_milliseconds=times, rate=25, codec=codec
    )
    assert read(path, rate=25)[:30] == list(range(30))
    check_video(path)


@pytest.mark.parametrize("codec", ["flv", "libx264"])
@pytest.mark.parametrize("rate", [1, 2, 5, 8, 10])
def test_a_flash_video_of_few_frames_is_whole_and_may_not_be_cut(tmp_path, codec, rate):
    """Its last frame has no duration there, and its end is counted from the first decoding time."""
    for count in (1, 2, 8, 22):
        path = tmp_path / f"{count}.flv"
        times = [1000 * n // rate for n in range(count)]
        write_movie(path, noise(count), times_milliseconds=times, rate=rate, codec=codec)
        assert len(read(path, rate=rate)) == count
        check_video(path)
    for fraction in (0.8, 0.5):
        refusal(cut(path, fraction))


def test_films_that_are_joined_byte_by_byte_are_refused_and_not_read_in_half(tmp_path):
    """A program stream has one clock, which begins anew in the second."""
    parts = [
        write_movie(tmp_path / f"{n}.mpg", grey_frames(50), rate=25, codec="mpeg2video") for n in range(2)
    ]
    joined = tmp_path / "joined.mpg"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(InputError) as refused:
        read(joined)
    assert refused.value.path == joined
    assert refused.value.value > 1.5


def test_a_seek_that_leads_too_far_loses_no_frame(tmp_path):
    """A stream without key frames after its first, whose index names other frames as such."""
    options = {"x264-params": "intra-refresh=1:keyint=20:bframes=0:scenecut=0"}
    wide = np.random.default_rng(0).integers(0, 256, (12, 24, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    frames = np.stack([np.roll(wide, n, axis=1) for n in range(200)])
    path = write_movie(tmp_path / "refresh.mp4", frames, codec_options=options, key_frame_every=20)
    whole = [frame for _, frame in stream_video(path, frames_per_second=10, resolution=32)]
    few = [
        frame for _, frame in stream_video(path, frames_per_second=1 / 8, resolution=32, start_seconds=0.5)
    ]
    np.testing.assert_array_equal(few, [whole[n] for n in (5, 85, 165)])


@pytest.mark.parametrize("suffix", [".mp4", ".ts"])
def test_what_nobody_needs_is_not_decoded_and_changes_no_frame(tmp_path, suffix):
    wide = np.random.default_rng(0).integers(0, 256, (8, 16, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    frames = np.stack([np.roll(wide, n, axis=1) for n in range(60)])
    milliseconds = [40 * n + 15 * (n % 3) for n in range(60)]  # at a rate that changes
    options = {"x264-params": "bframes=3:b-adapt=0:scenecut=0"}
    path = write_movie(
        tmp_path / f"movie{suffix}", frames, times_milliseconds=milliseconds, rate=25, codec_options=options
    )

    def pictures(rate: float, *, every: int = 1) -> np.ndarray:
        wanted = stream_wanted(
            path, wanted=lambda index: index % every == 0, frames_per_second=rate, resolution=32
        )
        return np.stack([frame for _, frame in wanted if frame is not None])

    few = pictures(4)
    np.testing.assert_array_equal(few, pictures(200)[::50])
    # What stands in frames that are not shown does not matter then.
    with av.open(str(path)) as container:
        check = BitstreamCheck(container.streams.video[0])
        disposable = [one for one in container.demux(video=0) if one.size and check.is_disposable(bytes(one))]
        start = cast(int, container.streams.video[0].start_time)
        times = [float((cast(int, one.pts) - start) * one.time_base) * 1000 for one in disposable]
    assert len(disposable) > 20
    content, damaged = bytearray(path.read_bytes()), 0
    for every in (1, 2):
        spacing = 250 * every
        unneeded = [one for one, time in zip(disposable, times) if 60 < time % spacing < spacing - 60]
        assert len(unneeded) > damaged
        damaged = len(unneeded)
        for packet in unneeded if suffix == ".mp4" else ():
            at, end = cast(int, packet.pos) + 5, cast(int, packet.pos) + packet.size
            content[at:end] = b"\x55" * (end - at)
        path.write_bytes(content)
        np.testing.assert_array_equal(few[::every], pictures(4, every=every))


def with_matrix(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Set how the picture of an MP4 file is to be shown: x' = a x + c y, y' = b x + d y."""
    one, zero = (1 << 16), bytes(4)
    fixed = [(one * value).to_bytes(4, signed=True) for value in matrix]
    upright, wanted = (
        b"".join((a, b, zero, c, d, zero))
        for a, b, c, d in ([one.to_bytes(4), zero, zero, one.to_bytes(4)], fixed)
    )
    content = path.read_bytes()
    track = content.index(b"tkhd")
    assert upright in content[track : track + 100]
    path.write_bytes(content[:track] + content[track:].replace(upright, wanted, 1))
    return path


@pytest.mark.parametrize(
    "matrix",
    [
        (1, 0, 0, 1),
        (-1, 0, 0, 1),
        (1, 0, 0, -1),
        (-1, 0, 0, -1),
        (0, 1, -1, 0),
        (0, -1, 1, 0),
        (0, 1, 1, 0),
        (0, -1, -1, 0),
    ],
)
def test_every_rotation_and_mirroring_is_shown(tmp_path, matrix):
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16, :16], pixels[:16, 16:], pixels[16:, :16] = 220, 150, 80
    path = with_matrix(write_movie(tmp_path / "movie.mp4", np.stack([pixels] * 3)), matrix)
    a, b, c, d = matrix
    expected = np.zeros((2, 2))
    for x, y, level in ((-1, -1, 220), (1, -1, 150), (-1, 1, 80), (1, 1, 0)):
        expected[(b * x + d * y + 1) // 2, (a * x + c * y + 1) // 2] = level
    _, frame = next(stream_video(path, frames_per_second=1, resolution=32))
    np.testing.assert_allclose(frame[8::16, 8::16, 0], expected, atol=12)


@pytest.mark.parametrize("matrix", [(1, 0, 0, 1), (0, 1, -1, 0)])
def test_pixels_that_are_not_square_are_shown_in_their_proportions(tmp_path, matrix):
    """A disc that was squeezed to half its width is a disc again, upright or lying."""
    y, x = np.mgrid[-31.5:32, -31.5:32]
    disc = np.where((2 * x) ** 2 + y**2 < 24**2, 255, 0).astype(np.uint8)[..., None].repeat(3, -1)
    path = write_movie(tmp_path / "wide.mp4", np.stack([disc] * 3), pixel_aspect=Fraction(2))
    _, frame = next(stream_video(with_matrix(path, matrix), frames_per_second=1, resolution=64))
    shown = frame[..., 0] > 127
    assert shown.any(0).sum() == pytest.approx(48, abs=2) == shown.any(1).sum()


def test_transparent_parts_of_a_video_are_white(tmp_path):
    path = tmp_path / "clear.webm"
    with av.open(str(path), "w") as container:
        stream = cast(av.VideoStream, container.add_stream("libvpx-vp9", rate=10))
        stream.height = stream.width = 32
        stream.pix_fmt = "yuva420p"
        container.mux(
            stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 4), np.uint8), format="rgba"))
        )
        container.mux(stream.encode(None))
    _, frame = next(stream_video(path, frames_per_second=1, resolution=32))
    assert frame.min() > 250


def test_white_of_a_high_dynamic_range_is_white(tmp_path):
    """Reference white (203 cd/m2, ITU-R BT.2408) is 0.58 of the signal of PQ."""
    white = np.full((32, 32, 3), round(0.58 * 255), np.uint8)
    color = "colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"
    path = write_movie(tmp_path / "hdr.mp4", np.stack([white] * 3), codec_options={"x264-params": color})
    _, frame = next(stream_video(path, frames_per_second=1, resolution=32))
    assert frame.min() > 245


def test_colors_that_cannot_be_converted_are_refused_by_name(tmp_path):
    color = "colorprim=bt2020:transfer=smpte2084:colormatrix=ictcp"
    frames, options = grey_frames(3), {"x264-params": color}
    path = write_movie(tmp_path / "dolby.mp4", frames, pix_fmt="yuv420p10le", codec_options=options)
    refusal(path)


def test_gif_of_one_frame_without_a_rate(tmp_path):
    path = tmp_path / "one.gif"
    Image.fromarray(grey_frames(9)[8]).save(path)
    assert read(path, rate=1) == [8]


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".avif"])
def test_animated_images_are_clips(tmp_path, suffix):
    path = tmp_path / f"moving{suffix}"
    images = [Image.fromarray(frame) for frame in grey_frames(8)[::2]]
    images[0].save(path, save_all=True, append_images=images[1:], duration=250)
    assert media_format(path) == "video"
    assert read(path, rate=4) == [0, 2, 4, 6]
    assert read(path, rate=8, start_seconds=0.4) == [2, 4, 4, 6, 6]
    refusal(path, start_seconds=1.01)
    check_video(path)


@pytest.mark.parametrize("suffix", [".gif", ".avif"])
def test_whatever_a_library_raises_on_a_damaged_animation_is_said_as_damage(tmp_path, suffix):
    path, draw = tmp_path / f"moving{suffix}", np.random.default_rng(0)
    images = [Image.fromarray(frame) for frame in noise(2)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=250)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    for _ in range(200):
        changed = whole.copy()
        changed[draw.integers(0, len(whole), 3)] = draw.integers(0, 256, 3)
        path.write_bytes(changed.tobytes()[: draw.integers(len(whole) // 2, 2 * len(whole))])
        for use in (media_format, read, lambda path: read_image(path, resolution=8)):
            with suppress(InputError):
                use(path)


def test_frames_of_an_animated_image_without_a_time_last_a_tenth_of_a_second(tmp_path):
    path = tmp_path / "moving.gif"
    images = [Image.fromarray(frame) for frame in grey_frames(3)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=0)
    assert read(path) == [0, 1, 2]


def test_a_cut_animated_image_is_refused(tmp_path):
    path = tmp_path / "moving.webp"
    images = [Image.fromarray(frame) for frame in noise(4)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=250, lossless=True)
    refusal(cut(path, 0.7))


def refusal(path: Path, **options) -> InputError:
    with pytest.raises(InputError) as caught:
        read(path, **options)
    assert caught.value.path == path
    return caught.value


def test_files_that_are_no_video(tmp_path):
    empty, folder, text = tmp_path / "empty.mp4", tmp_path / "folder.mp4", tmp_path / "text.mp4"
    empty.touch()
    folder.mkdir()
    text.write_text("not a film\n" * 100)
    for path in (tmp_path / "missing.mp4", empty, folder, text):
        refusal(path)
        assert media_format(path) == "video"  # by its name, until it is read
    with pytest.raises(InputError):
        media_format(text.rename(tmp_path / "text.dat"))


def test_a_playlist_does_not_tell_whether_there_are_the_files_that_it_names(tmp_path):
    path, told = tmp_path / "list.mp4", set()
    write_movie(tmp_path / "film.ts", grey_frames(10))
    for name in ("film.ts", "none.ts"):
        path.write_text(f"ffconcat version 1.0\nfile {name}\n")
        told.add(str(refusal(path)))
    assert len(told) == 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_image_that_is_called_a_video(tmp_path, kind):
    path = tmp_path / "picture.mp4"
    Image.new("RGB", (64, 64)).save(path, kind)
    refusal(path)
    assert media_format(path) == "image"


def test_sound_alone(tmp_path):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        add_sound(container, seconds=1)
    refused = refusal(path)
    assert (refused.field, refused.value) == ("streams", ("audio",))


def test_the_cover_of_a_song_is_no_video(tmp_path):
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        cover = cast(av.VideoStream, container.add_stream("mjpeg", rate=1))
        cover.height = cover.width = 32
        cover.pix_fmt = "yuvj420p"
        cover.disposition = Disposition.attached_pic
        packets = cover.encode(av.VideoFrame.from_ndarray(grey_frames(1)[0], format="rgb24"))
        add_sound(container, seconds=1)
        for packet in packets:
            packet.pts, packet.dts, packet.time_base = 0, 0, Fraction(1)
            container.mux(packet)
    with av.open(str(path)) as container:
        assert container.streams.video and container.streams.audio
    refused = refusal(path)
    assert (refused.field, refused.value) == ("streams", ("audio",))


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), np.uint8)


def cut(path: Path, fraction: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])
    return path


def test_mp4_without_its_index(tmp_path):
    path = cut(write_movie(tmp_path / "recording.mp4", noise(10)), 0.5)
    refusal(path)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [("cut.mp4", "libx264", {"movflags": "faststart"}), ("cut.mkv", "libx264", {}), ("cut.avi", "mpeg4", {})],
)
def test_a_video_that_was_cut_says_how_much_could_be_read(tmp_path, name, codec, options):
    path = write_movie(tmp_path / name, noise(40), codec=codec, options=options, key_frame_every=5)
    assert 0.5 < cast(float, refusal(cut(path, 0.5)).value) < 3.5


def test_a_damaged_video_is_read_as_far_as_asked_before_the_damage(tmp_path):
    path = write_movie(tmp_path / "cut.mp4", noise(40), options={"movflags": "faststart"}, key_frame_every=5)
    assert len(read(cut(path, 0.5), most_frames=5)) == 5


def test_bombs(tmp_path):
    path = write_movie(tmp_path / "movie.mp4", grey_frames(20, height=32, width=64))
    assert refusal(path, limits=MediaLimits(frame_pixels=2000)).value == (64, 32)
    assert refusal(path, limits=MediaLimits(aspect_ratio=1.5)).value == (64, 32)
    assert refusal(path, limits=MediaLimits(duration_seconds=1.0)).value == pytest.approx(2.0)
    moving = tmp_path / "moving.gif"
    images = [Image.fromarray(frame) for frame in grey_frames(20)]
    images[0].save(moving, save_all=True, append_images=images[1:], duration=1000)
    refusal(moving, rate=1, limits=MediaLimits(duration_seconds=10.0))
    refusal(moving, rate=1, limits=MediaLimits(frame_pixels=1000))


@pytest.mark.parametrize("bad", [{"frames_per_second": 0.0}, {"start_seconds": -1.0}, {"resolution": 0}])
def test_arguments_are_checked(tmp_path, bad):
    path = write_movie(tmp_path / "movie.mp4", grey_frames(2))
    with pytest.raises(InputError) as caught:
        next(stream_video(path, **({"frames_per_second": 1.0, "resolution": 32} | bad)))
    assert caught.value.field == next(iter(bad))


@pytest.mark.parametrize("start", [0.05, 0.3, 0.6, 0.9])
@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "libx264"),
        ("a.ts", "libx264"),
        ("a.mkv", "libx265"),
        ("a.avi", "mpeg4"),
        ("a.wmv", "wmv1"),
        ("a.webm", "libvpx-vp9"),
    ],
)
def test_zeros_in_a_key_frame_are_damage(tmp_path, name, codec, start):
    """Decoders conceal most of it; it may never be trained on."""
    options = {"libx265": {"x265-params": "log-level=none"}, "libvpx-vp9": {"deadline": "realtime"}}.get(
        codec
    )
    path = write_movie(tmp_path / name, noise(20), codec=codec, key_frame_every=5, codec_options=options)
    assert len(read(path)) == 20
    with av.open(str(path)) as container:
        key_frames = [packet for packet in container.demux(video=0) if packet.size and packet.is_keyframe]
        begin, size = cast(int, key_frames[1].pos), key_frames[1].size
    content = bytearray(path.read_bytes())
    at = begin + int(size * start)
    content[at : at + 32] = bytes(32)
    path.write_bytes(content)
    refusal(path)


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.mkv", "mpeg2video", "yuv420p"),
        ("a.avi", "mjpeg", "yuvj420p"),
        ("a.mov", "mjpeg", "yuvj444p"),
        ("a.flv", "flv", "yuv420p"),
    ],
)
def test_zeros_are_refused_or_change_no_picture(tmp_path, name, codec, pix_fmt):
    def pictures() -> np.ndarray:
        return np.stack([frame for _, frame in stream_video(path, frames_per_second=25, resolution=64)])

    times = [40 * n for n in range(4)]
    path = write_movie(
        tmp_path / name, noise(4), codec=codec, pix_fmt=pix_fmt, rate=25, times_milliseconds=times
    )
    whole, content = pictures(), path.read_bytes()
    with av.open(str(path)) as container:
        places = [(cast(int, one.pos), one.size) for one in container.demux(video=0) if one.size]
    refused = 0
    for (begin, size), part, zeros in itertools.product(places[1:], (0.1, 0.4, 0.8), (16, 600)):
        changed, at = bytearray(content), begin + int(size * part)
        changed[at : at + zeros] = bytes(zeros)
        path.write_bytes(changed)
        try:
            np.testing.assert_array_equal(pictures(), whole)
        except InputError:
            refused += 1
    assert refused > 12


def test_plain_pictures_of_motion_jpeg_whose_codes_are_zeros_are_whole(tmp_path):
    grey = grey_frames(3, height=256, width=256)
    path = write_movie(tmp_path / "plain.avi", grey, codec="mjpeg", pix_fmt="yuvj420p")
    assert bytes(100) in path.read_bytes()
    assert read(path) == [0, 1, 2]


def test_a_video_with_open_groups_of_pictures_is_whole(tmp_path):
    """What follows a key frame there refers to what stands before it."""
    for codec, options in (
        ("libx264", {"x264-params": "open-gop=1:keyint=10:bframes=3:scenecut=0"}),
        ("libx265", {"x265-params": "log-level=none:open-gop=1:keyint=10:bframes=3:scenecut=0"}),
    ):
        path = write_movie(tmp_path / "open.mkv", grey_frames(120), codec=codec, codec_options=options)
        assert read(path) == [n % 32 for n in range(120)]
        assert read(path, start_seconds=8.5, most_frames=3) == [85 % 32, 86 % 32, 87 % 32]


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


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_pixels_without_a_range_are_refused(tmp_path, kind):
    """A float of 0.5 would be black."""
    path = tmp_path / "image.tif"
    Image.fromarray(np.ones((32, 40), kind)).save(path)
    with pytest.raises(InputError) as refused:
        read_image(path, resolution=32)
    assert refused.value.path == path


def test_transparent_parts_are_white(tmp_path):
    path = tmp_path / "clear.png"
    image = Image.new("P", (32, 32), 0)
    image.putpalette([200, 0, 0] * 256)
    image.save(path, transparency=bytes(256))
    assert read_image(path, resolution=32).min() == 255


def test_a_large_color_profile_or_text_does_not_matter(tmp_path):
    image = Image.fromarray(grey_frames(9)[8])
    image.save(tmp_path / "profile.png", icc_profile=bytes(2_000_000))
    text = PngInfo()
    text.add_text("prompt", "a" * 2_000_000, zip=True)
    image.save(tmp_path / "text.png", pnginfo=text)
    for name in ("profile.png", "text.png"):
        assert media_format(tmp_path / name) == "image"
        assert (read_image(tmp_path / name, resolution=32) == 64).all()


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
    moving, pages = tmp_path / "moving.webp", tmp_path / "pages.tif"
    images = [Image.fromarray(frame) for frame in grey_frames(2)]
    for path in (moving, pages):
        images[0].save(path, save_all=True, append_images=images[1:])
    for path in (text, damaged, large, moving, pages):
        with pytest.raises(InputError) as caught:
            read_image(path, resolution=32, limits=limits)
        assert caught.value.path == path


@pytest.mark.parametrize(
    "size", [(64, 48), (48, 64), (97, 33), (33, 97), (20, 20), (7, 31), (160, 90), (90, 160), (32, 96)]
)
def test_fit_frame_is_lwm_to_the_pixel(size):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*size[::-1], 3), np.uint8))
    width, height = size
    scaled = (32, int(32 * height / width)) if width < height else (int(32 * width / height), 32)
    left, top = (scaled[0] - 32) / 2, (scaled[1] - 32) / 2
    expected = image.resize(scaled).crop((left, top, (scaled[0] + 32) / 2, (scaled[1] + 32) / 2))
    np.testing.assert_array_equal(fit_frame(image, 32), np.asarray(expected))
