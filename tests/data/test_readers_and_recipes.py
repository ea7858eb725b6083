"""A format and a task of one's own: one Reader and one Recipe, and nothing else changes."""

import csv
from collections.abc import Iterator
from pathlib import Path

from ringworld.data.config import MixtureConfig, PackingConfig, PrepareConfig
from ringworld.data.find_sources import RECORD_READERS
from ringworld.data.loader import PackedLoader
from ringworld.data.quarantine import Quarantined
from ringworld.data.recipe import Draft, PreparationContext, Recipe
from ringworld.data.recipes import RECIPES
from ringworld.data.samples import Sample
from ringworld.data.sources import Reader, Source
from ringworld.data.splits import split_of, text_content
from ringworld.data.store import ExampleStore, read_examples
from ringworld.text import chat

CONFIG = PrepareConfig(held_out_fraction=0.0)


class Table(Reader):
    name, holds, shows = "table", "many", "text"

    def read(
        self, source: Source, *, config: PrepareConfig, quarantined: list[Quarantined]
    ) -> Iterator[Sample]:
        with source.path.open(newline="") as stream:
            for number, row in enumerate(csv.DictReader(stream), start=1):
                text = row["words"]
                split = split_of(text_content(text), source, config)
                yield Sample(key=f"{source.relative}#{number}", split=split, text=text)


class Spelled(Recipe):
    kind = "spelled"

    def drafts(self, sample: Sample, context: PreparationContext) -> Iterator[Draft]:
        if sample.text is not None:
            prompt = chat.question_prompt(f"Spell {sample.text}")
            yield Draft(segments=chat.answered(prompt, " ".join(sample.text)))


def test_a_format_and_a_task_of_ones_own_are_prepared_and_drawn(tmp_path: Path, run_prepare, tokenizer):
    folder = tmp_path / "words"
    folder.mkdir()
    (folder / "a.csv").write_text("words,count\nred,1\nblue,2\n")
    (folder / "b.txt").write_text("green")
    own = {"readers": {**RECORD_READERS, ".csv": Table()}, "recipes": (*RECIPES, Spelled())}
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
