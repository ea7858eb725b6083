"""What a text tokenizer is judged by is told, and so is every file that it could not read, once."""

from pathlib import Path

from ringworld.cli.jobs.tokenizers import train_text_tokenizer
from ringworld.data.config import PrepareConfig
from ringworld.data.sources import find_sources

TRAINED, OTHER = "the river and the house. " * 40, "0123456789" * 40


def judge(folder: Path, *, held_out_fraction: float = 0.1):
    config = PrepareConfig(held_out_fraction=held_out_fraction, document_tokens=64)
    sources = find_sources(videos=[], texts=[folder], config=config)
    return train_text_tokenizer(sources, vocab_size=300, config=config)


def test_text_that_is_held_out_judges_and_is_not_learnt(tmp_path: Path):
    (tmp_path / "held_out").mkdir()
    (tmp_path / "a.txt").write_text(TRAINED[:500])
    (tmp_path / "held_out/b.txt").write_text(OTHER)
    judged = judge(tmp_path)
    # Each digit is a token, as no digit was trained on.
    assert (judged.judged_on, judged.bytes_per_token) == ("text held out", 1.0)


def test_text_that_was_trained_on_is_told_and_a_bad_file_counts_once(tmp_path: Path):
    (tmp_path / "a.txt").write_text(TRAINED)
    (tmp_path / "bad.txt").write_bytes(b"\xff")
    judged = judge(tmp_path, held_out_fraction=0.0)
    assert judged.judged_on == "text trained on"
    assert judged.bytes_per_token > 2
    assert [item.path for item in judged.quarantined] == ["bad.txt"]


def test_a_single_book_is_judged_by_its_end(tmp_path: Path):
    (tmp_path / "book.txt").write_text(TRAINED + OTHER[:111])
    judged = judge(tmp_path)
    assert (judged.judged_on, judged.bytes_per_token) == ("text held out", 1.0)
