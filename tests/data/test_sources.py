import json
import os
from pathlib import Path

import numpy as np
import pytest

from ringworld.core.errors import InputError
from ringworld.data.config import PrepareConfig
from ringworld.data.quarantine import Quarantined
from ringworld.data.sources import Question, Sidecar, Source, find_sources, read_sidecar
from ringworld.vision.media import stream_video
from ringworld.vision.write_media import write_image

CONFIG = PrepareConfig(held_out_fraction=0.2)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")


def test_files_are_found_in_all_folders_below_and_sidecars_are_not_documents(tmp_path: Path):
    touch(tmp_path, "b.mp4", "b.txt", "b.json", "a/c.WEBM", "a/d.gif", "e.png", ".f.mp4.tmp", ".g/h.mp4")
    touch(tmp_path, "words.txt", "notes.md", "lines.jsonl", "other.bin")
    found = find_sources(videos=[tmp_path], texts=[tmp_path], config=CONFIG)
    assert [(source.relative, source.format) for source in found] == [
        ("a/c.WEBM", "video"),
        ("a/d.gif", "video"),
        ("b.mp4", "video"),
        ("e.png", "image"),
        ("lines.jsonl", "lines"),
        ("notes.md", "text"),
        ("words.txt", "text"),
    ]


def test_a_single_file_can_be_named_and_counts_once(tmp_path: Path):
    touch(tmp_path, "a.mp4")
    found = find_sources(videos=[tmp_path / "a.mp4", tmp_path], texts=[], config=CONFIG)
    assert [source.relative for source in found] == ["a.mp4"]


def test_a_missing_folder_one_without_files_and_none_at_all_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="--videos .*nowhere: got no such folder"):
        find_sources(videos=[tmp_path / "nowhere"], texts=[], config=CONFIG)
    with pytest.raises(InputError, match=r"--texts .*no usable file, expected .*\.jsonl"):
        find_sources(videos=[], texts=[tmp_path], config=CONFIG)
    with pytest.raises(InputError, match="neither"):
        find_sources(videos=[], texts=[], config=CONFIG)


def test_links_to_nothing_and_pipes_are_set_aside_with_the_reason(tmp_path: Path):
    touch(tmp_path, "a.mp4", "folder.mp4/b.png", "c.txt")
    (tmp_path / "link.mp4").symlink_to("nothing")
    (tmp_path / ".hidden.mp4").symlink_to("nothing")
    (tmp_path / "whole.mp4").symlink_to("a.mp4")
    os.mkfifo(tmp_path / "pipe.txt")
    aside: list[Quarantined] = []
    twice = [tmp_path, tmp_path]
    found = find_sources(videos=twice, texts=[tmp_path], config=CONFIG, set_aside=aside)
    assert {source.relative for source in found} == {"a.mp4", "folder.mp4/b.png", "c.txt"}
    assert aside == [
        Quarantined(path="link.mp4", reason="link.mp4: a link to nothing"),
        Quarantined(path="pipe.txt", reason="pipe.txt: not a regular file"),
    ]


def test_a_link_to_nothing_or_a_pipe_alone_is_refused_with_the_reason(tmp_path: Path):
    folder = tmp_path / "folder"
    folder.mkdir()
    link, pipe = folder / "link.mp4", tmp_path / "pipe.mp4"
    link.symlink_to("nothing")
    os.mkfifo(pipe)
    with pytest.raises(InputError, match=r"--videos .*link\.mp4: got a link to nothing"):
        find_sources(videos=[link], texts=[], config=CONFIG)
    with pytest.raises(InputError, match=r"--videos .*pipe\.mp4: got not a regular file"):
        find_sources(videos=[pipe], texts=[], config=CONFIG)
    with pytest.raises(InputError, match=r"no usable file \(link\.mp4: a link to nothing\)"):
        find_sources(videos=[folder], texts=[], config=CONFIG)


def test_the_split_hangs_on_the_path_below_the_folder_alone(tmp_path: Path):
    names = [f"clip_{i}.mp4" for i in range(200)]
    touch(tmp_path / "one", *names)
    touch(tmp_path / "two/deeper", *names[:150])
    one = find_sources(videos=[tmp_path / "one"], texts=[], config=CONFIG)
    two = find_sources(videos=[tmp_path / "two/deeper"], texts=[], config=CONFIG)
    held_out = {source.relative for source in one if source.split == "held_out"}
    assert 20 <= len(held_out) <= 60
    assert {s.relative for s in two if s.split == "held_out"} == held_out & set(names[:150])


@pytest.mark.parametrize("count", range(2, 8))
@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_each_split_has_a_file_where_there_are_two(tmp_path: Path, count, fraction):
    touch(tmp_path, *(f"{i}.mp4" for i in range(count)))
    config = PrepareConfig(held_out_fraction=fraction)
    splits = [source.split for source in find_sources(videos=[tmp_path], texts=[], config=config)]
    assert set(splits) == {"train", "held_out"}


def test_a_file_that_cannot_be_read_is_not_the_only_one_held_out(tmp_path: Path):
    touch(tmp_path, *(f"bad_{i}.mp4" for i in range(8)))
    for name in ("one", "two"):
        write_image(tmp_path / f"{name}.png", np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "bad.txt").write_bytes(b"\xff")
    (tmp_path / "good_1.txt").write_text("word")
    (tmp_path / "good_2.txt").write_text("word")
    for seed in range(8):
        config = PrepareConfig(held_out_fraction=0.01, seed=seed)
        found = find_sources(videos=[tmp_path], texts=[tmp_path], config=config)
        held_out = {source.relative for source in found if source.split == "held_out"}
        assert len(held_out & {"one.png", "two.png"}) == len(held_out & {"good_1.txt", "good_2.txt"}) == 1


def test_a_video_that_cannot_be_prepared_is_not_the_only_one_held_out(tmp_path: Path, write_clip):
    whole = write_clip(tmp_path / "whole_1.mp4", frames=8).read_bytes()
    (tmp_path / "whole_2.mp4").write_bytes(whole)
    # The first frames of a cut one can be read, and all of one that is said badly.
    (tmp_path / "cut.mp4").write_bytes(whole[:-50])
    (tmp_path / "said_badly.mp4").write_bytes(whole)
    (tmp_path / "said_badly.json").write_text("{")
    next(stream_video(tmp_path / "cut.mp4", frames_per_second=4.0, resolution=8))
    for seed in range(8):
        config = PrepareConfig(held_out_fraction=0.01, seed=seed)
        found = find_sources(videos=[tmp_path], texts=[], config=config)
        held_out = {source.relative for source in found if source.split == "held_out"}
        assert len(held_out & {"whole_1.mp4", "whole_2.mp4"}) == 1


def test_the_only_file_that_can_be_read_is_trained_on(tmp_path: Path):
    touch(tmp_path, "bad_1.mp4", "bad_2.mp4")
    write_image(tmp_path / "one.png", np.zeros((8, 8, 3), np.uint8))
    for seed in range(8):
        found = find_sources(videos=[tmp_path], texts=[], config=PrepareConfig(seed=seed))
        assert [s.split for s in found if s.relative == "one.png"] == ["train"]


def sidecar_of(tmp_path: Path, content: str, *, suffix: str = ".json") -> Sidecar:
    (tmp_path / f"a{suffix}").write_text(content)
    return read_sidecar(Source(path=tmp_path / "a.mp4", relative="a.mp4", format="video"))


def test_a_sidecar_holds_caption_and_questions(tmp_path: Path):
    said = {"caption": " Red. ", "questions": [{"question": "Q?", "answer": "A"}], "license": "none"}
    read = sidecar_of(tmp_path, json.dumps(said))
    assert read == Sidecar(caption="Red.", questions=(Question(question="Q?", answer="A"),))


def test_a_text_beside_a_video_is_its_caption_and_nothing_is_no_caption(tmp_path: Path):
    assert sidecar_of(tmp_path, "A dog.\n", suffix=".txt") == Sidecar(caption="A dog.")
    assert sidecar_of(tmp_path, " \n", suffix=".txt") == Sidecar()


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"caption": 3}',
        '{"questions": {}}',
        '{"questions": ["why"]}',
        '{"questions": [{"question": "Q"}]}',
        '{"questions": [{"question": "Q", "answer": "A", "answers": "many"}]}',
        '{"caption": "\\ud800"}',
        "[" * 100_000,
    ],
)
def test_a_sidecar_of_another_form_is_refused_by_name(tmp_path: Path, content):
    with pytest.raises(InputError, match=r"a\.json"):
        sidecar_of(tmp_path, content)


def test_files_in_a_folder_held_out_are_held_out_and_no_others(tmp_path: Path):
    touch(
        tmp_path, *(f"clip_{i}.mp4" for i in range(20)), "held_out/a.mp4", "b/held_out/c.mp4", "held_out.mp4"
    )
    found = find_sources(videos=[tmp_path], texts=[], config=CONFIG)
    assert {s.relative for s in found if s.split == "held_out"} == {"held_out/a.mp4", "b/held_out/c.mp4"}


def test_a_name_that_is_not_utf8_is_spelt_out(tmp_path: Path):
    (tmp_path / os.fsdecode(b"caf\xe9.mp4")).touch()
    (found,) = find_sources(videos=[tmp_path], texts=[], config=CONFIG)
    assert found.relative == "caf\\xe9.mp4"
    assert found.path.exists()
