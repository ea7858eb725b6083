"""A format and a task of one's own, as docs/data.md has them: one Reader and one Recipe."""

import re
from pathlib import Path
from typing import Any

import pytest

from ringworld.data.config import MixtureConfig, PackingConfig, PrepareConfig, Split
from ringworld.data.find_sources import RECORD_READERS
from ringworld.data.loader import PackedLoader
from ringworld.data.store import ExampleStore, read_examples
from tests.data.shouted import Shouted

PAGE = Path(__file__).parents[2] / "docs/data.md"
CONFIG = PrepareConfig(held_out_fraction=0.0)


@pytest.fixture
def own() -> dict[str, Any]:
    """Return what the program of the page gives to `prepare`."""
    (program,) = (
        one for one in re.findall("```python\n(.*?)```", PAGE.read_text(), re.S) if "Recipe)" in one
    )
    names: dict[str, Any] = {"__name__": "page"}
    exec(program, names)
    return names["own"]


def test_a_format_and_a_task_of_ones_own_are_prepared_and_drawn(
    tmp_path: Path, run_prepare, tokenizer, own: dict[str, Any]
):
    folder = tmp_path / "words"
    folder.mkdir()
    (folder / "a.csv").write_text("words,count\nred,1\nblue,2\n")
    (folder / "b.txt").write_text("green")
    report = run_prepare(tmp_path / "out", texts=(folder,), config=CONFIG, **own)
    assert not report.quarantined
    spelled = list(read_examples(tmp_path / "out", split="train", kinds=["spelled"]))
    assert {
        example.source: tokenizer.decode(example.tokens[example.loss].tolist()) for example in spelled
    } == {
        "a.csv#1": " r e d",
        "a.csv#2": " b l u e",
        "b.txt": " g r e e n",
    }
    loader = PackedLoader(
        tmp_path / "out",
        split="train",
        context_tokens=64,
        batch_sequences=1,
        seed=0,
        mixture=MixtureConfig(ratios={"words/spelled": 1.0, "books/*": 1.0}),
        packing=PackingConfig(open_sequences=1),
    )
    drawn = tokenizer.decode(next(loader).batch.tokens[0].tolist())
    assert "Spell" in drawn and loader.unmatched == ("books/*",)
    # Without the recipe the folder is another, and nothing of it is touched.
    kinds = set(ExampleStore(tmp_path / "out").column("kind"))
    assert kinds == {"text", "spelled"}


def test_a_format_of_one_sample_a_file_has_the_splits_of_files(tmp_path: Path, run_prepare, tokenizer):
    (tmp_path / "in/held_out").mkdir(parents=True)
    for name in ("a.shout", "held_out/b.shout"):
        (tmp_path / "in" / name).write_text(f"THE RIVER IS {name.upper()}.")
    readers = {**RECORD_READERS, ".shout": Shouted()}
    run_prepare(tmp_path / "out", texts=(tmp_path / "in",), config=CONFIG, readers=readers)
    splits: dict[Split, str] = {"train": "a.shout", "held_out": "held_out/b.shout"}
    for split, name in splits.items():
        (example,) = read_examples(tmp_path / "out", split=split)
        assert example.source == name
        assert f"the river is {name}." in tokenizer.decode(example.tokens.tolist())
