import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest

from ringworld.core.errors import InputError
from ringworld.data.config import PrepareConfig
from ringworld.data.frames import stream_frames
from ringworld.data.quarantine import Quarantined
from ringworld.data.readers.tar import TAR, TarReader
from ringworld.data.samples import MediaFile, Sample
from ringworld.data.sources import Source

SAID = json.dumps({"caption": "A dog.", "questions": [{"question": "Q?", "answer": "A"}]}).encode()
TALK = json.dumps({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]})


def write(path: Path, entries: list[tuple[str, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # pyright: ignore[reportArgumentType, reportCallIssue]
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def read(
    path: Path, config: PrepareConfig | None = None, *, reader: TarReader = TAR
) -> tuple[list[Sample], list[str]]:
    bad: list[Quarantined] = []
    samples = []
    source = Source(path=path, relative=path.name, reader=reader)
    config = config or PrepareConfig(held_out_fraction=0.0)
    for sample in reader.read(source, config=config, quarantined=bad):
        assert all(isinstance(clip, MediaFile) and clip.path.exists() for clip in sample.clips)
        samples.append(sample)
    return samples, [item.path for item in bad]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_entries_of_one_name_are_one_sample(tmp_path: Path, write_clip, mode: str):
    clip, image = (write_clip(tmp_path / name).read_bytes() for name in ("a.mp4", "b.png"))
    entries = [
        ("x/1.mp4", clip),
        ("x/1.json", SAID),
        ("x/2.PNG", image),
        ("x/2.txt", b"A caption."),
        ("x/2.__key__", b"2"),
        ("x/3.txt", b"A document."),
        ("x/4.json", TALK.encode()),
    ]
    samples, bad = read(write(tmp_path / "a.tar", entries, mode))
    assert bad == []
    assert [sample.key for sample in samples] == [f"a.tar#x/{number}" for number in range(1, 5)]
    video, still, document, talk = samples
    assert (video.caption, video.questions[0].answer, still.caption) == ("A dog.", "A", "A caption.")
    assert [getattr(one.clip, "form", None) for one in samples] == ["video", "image", None, None]
    assert document.text == "A document." and [turn.content for turn in talk.turns] == [("Hi",), ("Ho",)]


def test_a_conversation_shows_the_image_beside_it_in_the_tar(tmp_path: Path, write_clip):
    image = write_clip(tmp_path / "b.png").read_bytes()

    def talk(**shown: str) -> bytes:
        asked = [shown, {"type": "text", "text": "What is it?"}] if shown else "What is it?"
        said = [{"role": "user", "content": asked}, {"role": "assistant", "content": "Grey."}]
        return json.dumps({"messages": said}).encode()

    entries = [
        *(("x/1.png", image), ("x/1.json", talk(type="image", image="1.png"))),
        *(("x/2.png", image), ("x/2.json", talk(type="image_url", image_url="x/2.png"))),
        *(("x/3.png", image), ("x/3.json", talk())),
        *(("x/4.png", image), ("x/4.json", talk(type="image", image="1.png"))),
        *(("x/5.png", image), ("x/5.json", talk(type="video", video="5.png"))),
    ]
    samples, bad = read(write(tmp_path / "a.tar", entries))
    assert [sample.key for sample in samples] == ["a.tar#x/1", "a.tar#x/2"]
    assert all(sample.turns[0].content[1:] == ("What is it?",) for sample in samples)
    assert bad == ["a.tar#x/3", "a.tar#x/4", "a.tar#x/5"]


def test_bad_entries_are_quarantined_and_no_name_leads_out_of_the_scratch_folder(tmp_path: Path, write_clip):
    image = write_clip(tmp_path / "b.png").read_bytes()
    entries = [
        ("../../out.png", image),
        ("/etc/out.txt", b"A document."),
        ("1.png", b"no picture"),
        ("2.png", image),
        ("2.jpg", image),
        ("3.png", image),
        ("3.json", b"{"),
        ("4.json", b"[1]"),
        ("5.json", b"{}"),
        ("6.txt", b"\xff"),
        ("7.txt", b"one"),
        ("7.TXT", b"two"),
        ("8." + "x" * 300, b"no picture"),
    ]
    samples, bad = read(write(tmp_path / "in.tar", entries))
    assert [sample.key for sample in samples] == ["in.tar#../../out", "in.tar#/etc/out"]
    assert bad == [f"in.tar#{number}" for number in range(1, 9)]
    assert not (tmp_path.parent / "out.png").exists() and not (tmp_path / "out.png").exists()


def test_links_devices_and_folders_are_no_entries(tmp_path: Path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            info = tarfile.TarInfo("1.txt")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    with pytest.raises(InputError) as refused:
        read(path)
    assert refused.value.path == path


def test_what_is_no_tar_or_cut_is_refused_after_what_is_whole(tmp_path: Path):
    path = write(tmp_path / "a.tar", [("1.txt", b"one"), ("2.txt", b"two" * 10_000)])
    whole = path.read_bytes()
    for content, usable in ((b"", 0), (b"no tar" * 200, 0), (whole[:5000], 1)):
        path.write_bytes(content)
        bad: list[Quarantined] = []
        samples = TAR.read(
            Source(path=path, relative="a.tar", reader=TAR), config=PrepareConfig(), quarantined=bad
        )
        for _ in range(usable):
            assert next(samples).text == "one"
        with pytest.raises(InputError) as refused:
            next(samples)
        assert refused.value.path == path


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_members_behind_a_damaged_header_are_not_dropped_in_silence(tmp_path: Path, mode: str):
    write(tmp_path / "a.tar", [(f"{number}.txt", b"text") for number in range(3)])
    content = bytearray((tmp_path / "a.tar").read_bytes())
    content[2 * 1024 + 150] ^= 1  # of the checksum of the third header
    path = tmp_path / "b.tar"
    path.write_bytes(content if mode == "w" else gzip.compress(content))
    bad: list[Quarantined] = []
    samples = TAR.read(
        Source(path=path, relative="b.tar", reader=TAR), config=PrepareConfig(), quarantined=bad
    )
    assert next(samples).key == "b.tar#0"  # the next may have more members, which are behind
    with pytest.raises(InputError) as refused:
        next(samples)
    assert refused.value.path == path


@pytest.mark.parametrize("header", [("GNU.sparse.map", "x,y"), ("size", "9" * 30)])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_header_that_python_cannot_read_is_damage(tmp_path: Path, header: tuple[str, str], mode: str):
    path = tmp_path / "a.tar"
    with tarfile.open(path, mode, format=tarfile.PAX_FORMAT) as tar:  # pyright: ignore[reportArgumentType, reportCallIssue]
        entry = tarfile.TarInfo("1.txt")
        entry.size, entry.pax_headers = 3, dict([header])
        tar.addfile(entry, io.BytesIO(b"one"))
    with pytest.raises(InputError) as refused:
        read(path)
    assert refused.value.path == path


def test_entries_of_one_sample_are_copied_up_to_a_limit(tmp_path: Path, write_clip):
    image = write_clip(tmp_path / "b.png").read_bytes()
    reader = TarReader(most_sample_bytes=len(image) + 100)
    entries = [("1.png", image), ("1.txt", b"a" * 101), ("2.png", image), ("2.txt", b"A picture.")]
    samples, bad = read(write(tmp_path / "a.tar", entries), reader=reader)
    assert [sample.caption for sample in samples] == ["A picture."] and bad == ["a.tar#1"]


def test_what_is_wrong_with_an_entry_is_said_of_the_tar_and_never_of_its_copy(
    tmp_path: Path, write_clip, monkeypatch
):
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    video = write_clip(tmp_path / "a.mp4", frames=8).read_bytes()
    data = "data:image/png;base64,AAAA"
    talk = {"messages": [{"role": "user", "content": [{"type": "image", "image": data}]}] * 2}
    entries = [
        ("1.mp4", video),
        ("1.json", b'{"questions": [3]}'),
        ("2.mp4", video),
        ("2.txt", "caf\u00e9".encode("latin-1")),
        ("3.txt", b"\xff"),
        ("4.json", b"\xff"),
        ("5.png", b"no picture"),
        ("6.json", json.dumps(talk).encode()),
        ("7.mp4", video[:-50]),
    ]
    path = write(tmp_path / "a.tar", entries)
    source = Source(path=path, relative="a.tar", reader=TAR)
    bad: list[Quarantined] = []
    config = PrepareConfig(held_out_fraction=0.0)
    for sample in TAR.read(source, config=config, quarantined=bad):
        (clip,) = (clip for clip in sample.clips if isinstance(clip, MediaFile))
        with pytest.raises(InputError) as refused:
            list(stream_frames(clip, config=config, resolution=8))
        assert refused.value.path == path
        bad.append(Quarantined(path=sample.key, reason=str(refused.value)))
    assert [item.path for item in bad] == [f"a.tar#{number}" for number in range(1, 8)]
    for item in bad:
        assert str(tmp_path / "scratch") not in item.reason and str(path) in item.reason


def test_null_in_an_entry_is_as_good_as_absent(tmp_path: Path):
    entries = [("1.json", b'{"text": null, "messages": null}'), ("1.txt", b"A document.")]
    samples, bad = read(write(tmp_path / "a.tar", entries))
    assert [sample.text for sample in samples] == ["A document."] and bad == []


def test_copies_are_held_out_together(tmp_path: Path, write_clip):
    images = [write_clip(tmp_path / "in" / f"{i}.png", frames=i + 1).read_bytes() for i in range(12)]
    entries = [(f"{copy}{i}.png", content) for copy in "ab" for i, content in enumerate(images)]
    samples, _ = read(write(tmp_path / "a.tar", entries), PrepareConfig(held_out_fraction=0.4))
    splits = [sample.split for sample in samples]
    assert splits[:12] == splits[12:] and set(splits) == {"train", "held_out"}
