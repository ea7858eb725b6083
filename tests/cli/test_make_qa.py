"""`ringworld make-qa` as a command."""

import re
from pathlib import Path

import pytest

from ringworld.cli.main import main
from ringworld.text.tokenizer import TextTokenizer
from tests.data.qa.fake_endpoint import serving, story


def test_it_says_what_it_costs_asks_and_says_what_came_of_it(tmp_path: Path, capsys):
    (tmp_path / "ships.txt").write_text(story())
    TextTokenizer.train([story()], vocab_size=400).save(tmp_path / "words")
    paths = ["--texts", tmp_path / "ships.txt", "--tokenizer", tmp_path / "words", "--out", tmp_path / "qa"]
    sizes = ["--passage-tokens", "150", "--context-tokens", "600", "1500"]
    with serving() as double:
        main(["make-qa", *map(str, paths), *sizes, "--model", "writer", "--address", double.address])
    printed = capsys.readouterr()
    assert str(len(double.prompts)) in re.findall(r"\d+", printed.err)
    assert str(len(double.prompts)) in re.findall(r"\d+", printed.out)
    assert (tmp_path / "qa/long_qa/conversations.jsonl").exists()


@pytest.mark.parametrize(("option", "value"), [("--address", "localhost"), ("--passage-tokens", "3")])
def test_an_option_that_cannot_be_is_named(tmp_path: Path, capsys, option: str, value: str):
    paths = ["--texts", str(tmp_path), "--tokenizer", str(tmp_path), "--out", str(tmp_path / "qa")]
    with pytest.raises(SystemExit) as ended:
        main(["make-qa", *paths, "--model", "writer", option, value])
    assert ended.value.code == 2 and option in capsys.readouterr().err
