import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ringworld.core.errors import InputError
from ringworld.data.config import PrepareConfig
from ringworld.data.find_sources import find_sources
from ringworld.data.quarantine import Quarantined
from ringworld.vision.write_media import write_image

CONFIG = PrepareConfig(held_out_fraction=0.2)


def touch(folder: Path, *names: str) -> None:
    """Write files that are named so; videos of these names are opened only when they are read."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".png", ".jpg"):
            write_image(path, np.zeros((8, 8, 3), np.uint8))
        else:
            path.write_text(name)


def names(found) -> set[str]:
    return {source.relative for source in found}


def test_files_are_found_in_all_folders_below_and_sidecars_are_not_documents(tmp_path: Path):
    touch(tmp_path, "b.mp4", "b.txt", "b.json", "a/c.WEBM", "a/d.MKV", "e.png", ".f.mp4.tmp", ".g/h.mp4")
    touch(tmp_path, "words.txt", "notes.md", "lines.jsonl", "F.MP4", "F.TXT", "g.mp4", "g.mp4.txt")
    unused: list[Quarantined] = []
    found = find_sources(videos=[tmp_path], texts=[tmp_path], config=CONFIG, quarantined=unused)
    assert sorted((source.relative, source.reader.name) for source in found) == [
        ("F.MP4", "video"),
        ("a/c.WEBM", "video"),
        ("a/d.MKV", "video"),
        ("b.mp4", "video"),
        ("e.png", "image"),
        ("g.mp4", "video"),
        ("lines.jsonl", "lines"),
        ("notes.md", "text"),
        ("words.txt", "text"),
    ]
    assert unused == []
    beside = {source.relative: [path.name for path in source.sidecars] for source in found}
    assert (beside["b.mp4"], beside["F.MP4"], beside["g.mp4"]) == (
        ["b.json", "b.txt"],
        ["F.TXT"],
        ["g.mp4.txt"],
    )


def test_what_is_inside_decides_and_not_the_name(tmp_path: Path, write_clip):
    clip = write_clip(tmp_path / "clip.mp4").read_bytes()
    for name in ("old.mpeg2", "no_ending", "wrong.png"):
        (tmp_path / name).write_bytes(clip)
    images = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    images[0].save(tmp_path / "still.tif")
    images[0].save(tmp_path / "photo.mp4", "JPEG")
    for suffix in (".webp", ".png", ".gif"):
        images[0].save(tmp_path / f"one{suffix}")
        images[0].save(tmp_path / f"two{suffix}", save_all=True, append_images=images[1:], duration=250)
    formats = {s.relative: s.reader.name for s in find_sources(videos=[tmp_path], config=CONFIG)}
    moving = {"clip.mp4", "old.mpeg2", "no_ending", "wrong.png", "two.webp", "two.png", "two.gif"}
    still = {"still.tif", "photo.mp4", "one.webp", "one.png", "one.gif"}
    assert formats == dict.fromkeys(moving, "video") | dict.fromkeys(still, "image")


def test_no_file_is_passed_over_in_silence(tmp_path: Path):
    touch(
        tmp_path, "a.mp4", "a.srt", "loose.json", "notes.rst", "words.txt", "sheet.csv", "bad.doc", "bad.json"
    )
    (tmp_path / "bad.png").write_text("no picture")
    (tmp_path / "far").symlink_to(tmp_path.parent, target_is_directory=True)
    unused: list[Quarantined] = []
    find_sources(videos=[tmp_path], config=CONFIG, quarantined=unused)
    listed = {"a.srt", "loose.json", "notes.rst", "words.txt", "sheet.csv", "bad.doc", "bad.png", "far"}
    assert {item.path for item in unused} == listed  # bad.json belongs to bad.png
    assert all(item.path in item.reason for item in unused)
    unused.clear()
    find_sources(videos=[tmp_path], texts=[tmp_path], config=CONFIG, quarantined=unused)
    assert sorted(item.path for item in unused) == sorted(listed - {"words.txt"})


def test_a_folder_of_ours_below_the_inputs_is_reported_and_not_read(tmp_path: Path):
    touch(tmp_path, "a.mp4", "words.txt", "out/samples/b.mp4", "out/text/c.txt", "theirs/d.mp4")
    for folder in ("out", "theirs"):
        written = {"ringworld": "0.1"} if folder == "out" else {"caption": "A dog."}
        (tmp_path / folder / "origin.json").write_text(json.dumps(written))
    unused: list[Quarantined] = []
    found = find_sources(videos=[tmp_path], texts=[tmp_path], config=CONFIG, quarantined=unused)
    assert names(found) == {"a.mp4", "words.txt", "theirs/d.mp4"}
    assert sorted(item.path for item in unused) == ["out", "theirs/origin.json"]
    unused.clear()
    named = find_sources(videos=[tmp_path, tmp_path / "out"], config=CONFIG, quarantined=unused)
    assert names(named) == {"a.mp4", "theirs/d.mp4", "samples/b.mp4"}
    assert "out" not in {item.path for item in unused}


def test_a_single_file_can_be_named_and_counts_once(tmp_path: Path):
    touch(tmp_path, "a.mp4", "a.txt", "notes.rst", ".hidden.mp4")
    found = find_sources(videos=[tmp_path / "a.mp4", tmp_path], config=CONFIG)
    assert [(source.relative, [path.name for path in source.sidecars]) for source in found] == [
        ("a.mp4", ["a.txt"])
    ]
    assert [s.reader.name for s in find_sources(texts=[tmp_path / "notes.rst"], config=CONFIG)] == ["text"]
    assert names(find_sources(videos=[tmp_path / ".hidden.mp4"], config=CONFIG)) == {".hidden.mp4"}


def test_a_missing_folder_one_without_files_and_none_at_all_are_refused(tmp_path: Path):
    for arguments, field in (
        ({"videos": [tmp_path / "nowhere"]}, "videos"),
        ({"texts": [tmp_path]}, "texts"),
        ({}, "videos"),
    ):
        with pytest.raises(InputError) as caught:
            find_sources(config=CONFIG, videos=arguments.get("videos", ()), texts=arguments.get("texts", ()))
        assert caught.value.field == field


def test_links_to_nothing_and_pipes_are_quarantined(tmp_path: Path):
    touch(tmp_path, "a.mp4", "folder.mp4/b.png", "c.txt")
    (tmp_path / "link.mp4").symlink_to("nothing")
    (tmp_path / ".hidden.mp4").symlink_to("nothing")
    (tmp_path / "whole.mp4").symlink_to("a.mp4")
    os.mkfifo(tmp_path / "pipe.txt")
    unused: list[Quarantined] = []
    found = find_sources(videos=[tmp_path, tmp_path], texts=[tmp_path], config=CONFIG, quarantined=unused)
    assert names(found) == {"a.mp4", "folder.mp4/b.png", "c.txt"}
    assert sorted(item.path for item in unused) == ["link.mp4", "pipe.txt"]


def test_a_link_to_nothing_or_a_pipe_alone_is_refused(tmp_path: Path):
    folder = tmp_path / "folder"
    folder.mkdir()
    link, pipe = folder / "link.mp4", tmp_path / "pipe.mp4"
    link.symlink_to("nothing")
    os.mkfifo(pipe)
    for path in (link, pipe, folder):
        with pytest.raises(InputError) as caught:
            find_sources(videos=[path], config=CONFIG)
        assert caught.value.field == "videos" and str(path) in str(caught.value)


def test_a_name_that_is_not_utf8_is_spelled_out(tmp_path: Path):
    (tmp_path / os.fsdecode(b"caf\xe9.mp4")).touch()
    (found,) = find_sources(videos=[tmp_path], config=CONFIG)
    assert found.relative == "caf\\xe9.mp4"
    assert found.path.exists()
