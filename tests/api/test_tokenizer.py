"""What tokenizers are judged by is reported, and so is every file that they could not read, once."""

from dataclasses import replace
from pathlib import Path

import pytest

import ringworld as rw
from ringworld.api.tokenizer import TokenizerReport
from ringworld.core.errors import InputError
from ringworld.data.config import PrepareConfig

TRAINED, OTHER = "the river and the house. " * 40, "0123456789" * 40
SMOKE = rw.presets.smoke()
TEXT = replace(SMOKE, frame_tokenizer=None, frame_training=None, model=replace(SMOKE.model, vision_vocab=0))


def judge(folder: Path, *, held_out_fraction: float = 0.1) -> TokenizerReport:
    prepare = PrepareConfig(held_out_fraction=held_out_fraction, document_tokens=64)
    run = replace(TEXT, prepare=prepare, model=replace(TEXT.model, text_vocab=300))
    return rw.train_tokenizer(run, texts=folder, out=folder.parent / "tokenizer")


def test_text_that_is_held_out_judges_and_is_not_trained_on(tmp_path: Path):
    folder = tmp_path / "in"
    (folder / "held_out").mkdir(parents=True)
    (folder / "a.txt").write_text(TRAINED[:500])
    (folder / "held_out/b.txt").write_text(OTHER)
    judged = judge(folder).text_tokenizer
    # Each digit is a token, as no digit was trained on.
    assert (judged.judged_on, judged.bytes_per_token) == ("text held out", 1.0)


def test_judging_by_what_was_trained_on_is_reported_and_a_bad_file_counts_once(tmp_path: Path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.txt").write_text(TRAINED)
    (folder / "bad.txt").write_bytes(b"\xff")
    report = judge(folder, held_out_fraction=0.0)
    assert report.text_tokenizer.judged_on == "text trained on"
    assert report.text_tokenizer.bytes_per_token is not None and report.text_tokenizer.bytes_per_token > 2
    assert [item.path for item in report.quarantined] == ["bad.txt"]
    assert any("bad.txt" in line for line in report.lines())


def test_a_single_book_is_judged_by_its_end(tmp_path: Path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "book.txt").write_text(TRAINED + OTHER[:111])
    judged = judge(folder).text_tokenizer
    assert (judged.judged_on, judged.bytes_per_token) == ("text held out", 1.0)


def test_a_run_that_sees_frames_needs_some(tmp_path: Path):
    (tmp_path / "a.txt").write_text(TRAINED)
    with pytest.raises(InputError) as refused:
        rw.train_tokenizer(SMOKE, texts=tmp_path / "a.txt", out=tmp_path / "out")
    assert refused.value.field == "videos"


def test_a_folder_of_other_tokenizers_is_refused(tmp_path: Path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.txt").write_text(TRAINED)
    judge(folder)
    (folder / "b.txt").write_text(OTHER)
    with pytest.raises(InputError) as refused:
        judge(folder)
    assert (refused.value.path, refused.value.field) == (tmp_path / "tokenizer", "files")
