"""Processes that prepare together: equal bytes, and a file that ends one costs nothing but itself."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringworld.core.errors import InputError
from ringworld.core.files import read_jsonl
from ringworld.data.config import PrepareConfig
from ringworld.data.find_sources import RECORD_READERS
from ringworld.data.prepare import prepare
from ringworld.data.quarantine import Quarantined
from ringworld.data.samples import Sample
from ringworld.data.sources import Reader, Source
from ringworld.data.store import DUPLICATES_FILE, QUARANTINE_FILE
from ringworld.text.tokenizer import TextTokenizer
from ringworld.text.vocabulary import Vocabulary

CONFIG = PrepareConfig(held_out_fraction=0.0, files_per_shard=2, max_frames=4)


class Deadly(Reader):
    """Ends the process, as a defect of a decoder does."""

    name, holds, shows = "deadly", "many", "text"

    def read(
        self, source: Source, *, config: PrepareConfig, quarantined: list[Quarantined]
    ) -> Iterator[Sample]:
        os._exit(9)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "shards").iterdir()}


def test_a_file_that_ends_its_process_is_quarantined_and_bytes_are_equal_whatever_the_workers(
    tmp_path: Path, run_prepare, write_clip
):
    folder = tmp_path / "in"
    for index in range(3):
        write_clip(folder / f"{index}.mp4", frames=6 + index, said={"caption": f"Dog {index}."})
        (folder / f"t{index}.txt").write_text(f"The old man {index} walks to the river. " * 40)
        (folder / f"n{index}.txt").write_bytes(b"\xff")
    run = {"videos": (folder,), "texts": (folder,), "config": CONFIG}
    whole = run_prepare(tmp_path / "one", **run, workers=1)
    deadly = folder / "a.deadly"
    deadly.touch()
    told: list[tuple[int, int, int]] = []
    two = run_prepare(
        tmp_path / "two",
        **run,
        workers=2,
        readers={**RECORD_READERS, ".deadly": Deadly()},
        on_progress=lambda *done: told.append(done),
    )
    assert {item.path for item in two.quarantined} - {item.path for item in whole.quarantined} == {"a.deadly"}
    assert [one[0] for one in told] == sorted(one[0] for one in told) and told[-1] == (10, 10, 4)
    deadly.unlink()
    again = run_prepare(tmp_path / "two", **run, workers=2)
    assert 0 < again.shards_made <= whole.shards_made
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    for name in ("manifest.parquet", "quarantine.jsonl"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_no_workers_are_refused(tmp_path: Path, run_prepare):
    (tmp_path / "a.txt").write_text("A short text.")
    with pytest.raises(InputError) as refused:
        run_prepare(tmp_path / "out", texts=(tmp_path / "a.txt",), workers=0)
    assert refused.value.field == "workers"


def test_a_file_that_ended_the_only_process_is_quarantined_by_the_same_command_again(tmp_path: Path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.deadly").touch()
    for name in "bc":
        (folder / f"{name}.txt").write_text("The old man walks to the river. ")
    # Duplicates are looked for before anything is prepared.
    command = [sys.executable, "-c", "from tests.data.test_workers import main; main()", str(tmp_path)]
    assert subprocess.run(command).returncode == 9
    assert subprocess.run(command).returncode == 0
    (left_out,) = read_jsonl(tmp_path / "out" / DUPLICATES_FILE)
    (refused,) = read_jsonl(tmp_path / "out" / QUARANTINE_FILE)
    assert (left_out["path"], refused["path"]) == ("in/c.txt", "a.deadly")


def main() -> None:
    """Prepare as the command line does, where a file may end the process."""
    root = Path(sys.argv[1])
    words = TextTokenizer.train(["The old man walks to the river."], vocab_size=300)
    prepare(
        texts=(root / "in",),
        out=root / "out",
        tokenizer=words,
        vocabulary=Vocabulary(text_size=words.size),
        config=PrepareConfig(held_out_fraction=0.0, duplicates="exact"),
        readers={**RECORD_READERS, ".deadly": Deadly()},
    )
