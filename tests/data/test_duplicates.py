import json
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


def test_conversations_count_and_what_shows_pictures_does_not(make: Prepare, tmp_path: Path, write_clip):
    write_clip(tmp_path / "in/dog.png")
    said = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A dog."}]
    picture = {"type": "image_url", "image_url": {"url": "dog.png"}}
    seen = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, picture]}, said[1]]
    lines = [{"messages": said}, {"messages": said}, {"messages": seen}, {"messages": seen}]
    (tmp_path / "in/chat.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert make("exact").duplicates == 1
    assert sources(tmp_path / "out") == ["chat.jsonl#1", "chat.jsonl#3", "chat.jsonl#4"]


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
