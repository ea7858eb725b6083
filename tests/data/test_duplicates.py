import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Literal

import pytest

from ringworld.core.errors import InputError
from ringworld.core.files import read_jsonl
from ringworld.data.config import PrepareConfig
from ringworld.data.prepare_report import PrepareReport
from ringworld.data.store import DUPLICATES_FILE, read_examples

Prepare = Callable[..., PrepareReport]


def book(seed: int, *, words: int = 300) -> str:
    draw = Random(seed)
    return " ".join("".join(draw.choices("abcdefgh", k=draw.randint(2, 7))) for _ in range(words))


def edited(text: str, every: int) -> str:
    words = text.split()
    return " ".join("changed" if i % every == 0 else word for i, word in enumerate(words, 1))


def sources(folder: Path) -> list[str]:
    return sorted(
        {one.source for split in ("train", "held_out") for one in read_examples(folder, split=split)}
    )


@pytest.fixture
def make(tmp_path: Path, run_prepare) -> Callable[[Literal["keep", "exact", "near"]], PrepareReport]:
    folder = tmp_path / "in"
    folder.mkdir()

    def run(duplicates: Literal["keep", "exact", "near"]) -> PrepareReport:
        config = PrepareConfig(held_out_fraction=0.0, duplicates=duplicates, files_per_shard=2)
        return run_prepare(tmp_path / "out", texts=(folder,), config=config)

    return run


def test_of_texts_of_the_same_words_the_first_is_kept_whatever_its_file(make: Prepare, tmp_path: Path):
    folder = tmp_path / "in"
    (folder / "a.txt").write_text(book(1))
    (folder / "b.txt").write_text(book(2))
    lines = [{"text": book(1).upper().replace(" ", "\n")}, {"text": book(3)}, {"text": book(3)}]
    (folder / "c.jsonl").write_text("\n".join(map(json.dumps, lines)))
    report = make("exact")
    assert report.duplicates == 2
    assert sources(tmp_path / "out") == ["a.txt", "b.txt", "c.jsonl#2"]
    named = read_jsonl(tmp_path / "out" / DUPLICATES_FILE)
    assert [(row["path"], row["of"], row["found"]) for row in named] == [
        ("in/c.jsonl#1", "in/a.txt", "exact"),
        ("in/c.jsonl#3", "in/c.jsonl#2", "exact"),
    ]
    # Once its twin is gone, a text is back.
    (folder / "a.txt").unlink()
    assert make("exact").duplicates == 1 and "c.jsonl#1" in sources(tmp_path / "out")


def test_copies_are_kept_unless_it_is_asked_for(make: Prepare, tmp_path: Path):
    for name in "ab":
        (tmp_path / f"in/{name}.txt").write_text(book(1))
    assert make("keep").duplicates == 0 and sources(tmp_path / "out") == ["a.txt", "b.txt"]


def test_a_text_that_is_held_out_is_kept_rather_than_its_copy(make: Prepare, tmp_path: Path):
    (tmp_path / "in/held_out").mkdir()
    (tmp_path / "in/held_out/z.jsonl").write_text(json.dumps({"text": book(1)}))
    (tmp_path / "in/a.txt").write_text(book(1))
    (tmp_path / "in/b.txt").write_text(book(2))
    assert make("exact").duplicates == 1
    assert sources(tmp_path / "out") == ["b.txt", "held_out/z.jsonl#1"]


def test_conversations_are_the_same_by_their_words_and_by_what_they_show(
    make: Prepare, tmp_path: Path, write_clip
):
    write_clip(tmp_path / "in/dog.png")
    write_clip(tmp_path / "in/cat.png", frames=9)
    shutil.copy(tmp_path / "in/dog.png", tmp_path / "in/copy.png")
    said = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A dog."}]
    seen = [
        [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, picture]}, said[1]]
        for picture in ({"type": "image", "image": f"{name}.png"} for name in ("dog", "cat", "copy"))
    ]
    laid = [
        {"fields": "[vision],output", "vision": [0, 1, 2, code], "output": "A dog."} for code in (3, 3, 4)
    ]
    lines = [{"messages": one} for one in (said, said, *seen)] + laid
    (tmp_path / "in/chat.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert make("near").duplicates == 3
    assert sources(tmp_path / "out") == [f"chat.jsonl#{line}" for line in (1, 3, 4, 6, 8)]


def test_copies_of_a_video_are_left_out_and_what_was_said_of_them_is_counted(
    tmp_path: Path, run_prepare, write_clip
):
    folder = tmp_path / "clips"
    folder.mkdir()
    write_clip(folder / "a.mp4")
    asked = [{"question": "What runs?", "answer": "A dog."}]
    for name, caption in (("b", "A dog runs."), ("c", "A dog.")):
        shutil.copy(folder / "a.mp4", folder / f"{name}.mp4")
        (folder / f"{name}.json").write_text(json.dumps({"caption": caption, "questions": asked}))
    write_clip(folder / "d.mp4", frames=5)
    with tarfile.open(folder / "e.tar", "w") as tar:
        tar.add(folder / "d.mp4", "0.mp4")
    config = PrepareConfig(held_out_fraction=0.0, duplicates="exact")
    report = run_prepare(tmp_path / "out", videos=(folder,), config=config)
    assert sources(tmp_path / "out") == ["b.mp4", "d.mp4"]
    named = {row["path"]: (row["of"], row["said"]) for row in read_jsonl(tmp_path / "out" / DUPLICATES_FILE)}
    assert named == {
        "clips/a.mp4": ("clips/b.mp4", 0),
        "clips/c.mp4": ("clips/b.mp4", 1),  # its caption: the question is asked of the other, too
        "clips/e.tar#0": ("clips/d.mp4", 0),
    }
    assert (report.duplicates, report.said_of_duplicates) == (3, 1)


def test_near_copies_are_found_and_what_is_only_alike_is_not(make: Prepare, tmp_path: Path):
    texts = {"a": book(1), "b": edited(book(1), 100), "c": edited(book(1), 7), "d": book(2), "e": book(1)}
    for name, text in texts.items():
        (tmp_path / f"in/{name}.txt").write_text(text)
    report = make("near")
    named = {row["path"]: (row["of"], row["found"]) for row in read_jsonl(tmp_path / "out" / DUPLICATES_FILE)}
    assert named == {"in/b.txt": ("in/a.txt", "near"), "in/e.txt": ("in/a.txt", "exact")}
    assert report.duplicates == 2 and sources(tmp_path / "out") == ["a.txt", "c.txt", "d.txt"]


def test_what_cannot_be_read_is_quarantined_and_not_a_copy(make: Prepare, tmp_path: Path):
    (tmp_path / "in/a.txt").write_text(book(1))
    for name in "bc":
        (tmp_path / f"in/{name}.txt").write_bytes(b"\xff\xfe\x00")
    report = make("exact")
    assert report.duplicates == 0 and len(report.quarantined) == 2


@pytest.mark.parametrize("similarity", [0.0, 1.1])
def test_a_similarity_is_a_share(similarity: float):
    with pytest.raises(InputError) as refused:
        PrepareConfig(near_similarity=similarity)
    assert refused.value.field == "near_similarity"
