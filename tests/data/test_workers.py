"""Processes that prepare together: equal bytes, and a file that ends one costs nothing but itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ringworld.core.errors import InputError
from ringworld.core.files import read_jsonl
from ringworld.data.config import PrepareConfig
from ringworld.data.find_sources import RECORD_READERS
from ringworld.data.prepare import prepare
from ringworld.data.progress import Done
from ringworld.data.sources import Source
from ringworld.data.store import DUPLICATES_FILE, QUARANTINE_FILE, read_examples
from ringworld.data.workers import read_in_processes
from ringworld.text.tokenizer import TextTokenizer
from ringworld.text.vocabulary import Vocabulary
from tests.data.conftest import Quarters
from tests.data.deadly import CODE, Deadly, DeadlyPart, name_slowly

CONFIG = PrepareConfig(held_out_fraction=0.0, files_per_shard=2, max_frames=4)
READERS = {**RECORD_READERS, ".deadly": Deadly(), ".parts": DeadlyPart()}


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
    deadly, parts = folder / "a.deadly", folder / "b.parts"
    deadly.touch()
    with parts.open("wb") as large:
        large.truncate(CONFIG.bytes_per_shard + 1)
    told: list[Done] = []
    two = run_prepare(tmp_path / "two", **run, workers=2, readers=READERS, on_progress=told.append)
    refused = {item.path for item in two.quarantined} - {item.path for item in whole.quarantined}
    assert refused == {deadly.name, parts.name}
    # Of a large file that part alone.
    sources = {example.source for example in read_examples(tmp_path / "two", split="train")}
    assert {"b.parts#1", "b.parts#3"} == {source for source in sources if "parts" in source}
    made = [one for one in told if one.phase == "making"]
    assert [one.files for one in made] == sorted(one.files for one in made)
    assert (made[-1].files, made[-1].total, made[-1].quarantined) == (13, 13, 5)
    # It is known now: one process alone does not read it again.
    assert run_prepare(tmp_path / "two", **run, workers=1, readers=READERS).shards_made == 0
    deadly.unlink()
    parts.unlink()
    again = run_prepare(tmp_path / "two", **run, workers=1)
    assert again.shards_made <= 3
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    for name in ("manifest.parquet", "quarantine.jsonl"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_no_workers_are_refused(tmp_path: Path, run_prepare):
    (tmp_path / "a.txt").write_text("A short text.")
    with pytest.raises(InputError) as refused:
        run_prepare(tmp_path / "out", texts=(tmp_path / "a.txt",), workers=0)
    assert refused.value.field == "workers"


class EncodedHere(Quarters):
    """Encodes in one process alone, as an accelerator does."""

    def __init__(self) -> None:
        self.process = os.getpid()

    def encode(self, frames):
        assert os.getpid() == self.process
        return super().encode(frames)


def test_a_file_that_ended_the_only_process_is_quarantined_by_the_same_command_again_and_stays_so(
    tmp_path: Path, run_prepare, write_clip
):
    folder = tmp_path / "in"
    write_clip(folder / "d.png", said={"caption": "A dog."})
    (folder / "a.deadly").touch()
    (folder / "b.txt").write_text("The old man walks to the river. ")
    (folder / "c.jsonl").write_text(
        json.dumps({"text": "The river is long."}) + "\n" + '{"text": "A dog."}\n' * 2
    )
    # Of two files, either is read when it is looked for what to hold out.
    command = [sys.executable, "-c", "from tests.data.test_workers import main; main()", str(tmp_path)]
    assert subprocess.run(command).returncode == CODE
    run = {
        "videos": (folder,),
        "texts": (folder,),
        "config": PrepareConfig(duplicates="exact"),
        "readers": READERS,
        "frame_tokenizer": EncodedHere(),
        "encoded_by": "this process",
    }
    for made in (1, 0, 0):
        assert run_prepare(tmp_path / "out", **run).shards_made == made
        (left_out,) = read_jsonl(tmp_path / "out" / DUPLICATES_FILE)
        (refused,) = read_jsonl(tmp_path / "out" / QUARANTINE_FILE)
        assert (left_out["path"], refused["path"]) == ("in/c.jsonl#3", "a.deadly")


def main() -> None:
    """Prepare as the command line does, where a file may end the process."""
    root = Path(sys.argv[1])
    words = TextTokenizer.train(["The old man walks to the river."], vocab_size=300)
    prepare(
        texts=(root / "in",),
        out=root / "out",
        tokenizer=words,
        vocabulary=Vocabulary(text_size=words.size),
        config=PrepareConfig(),
        readers=READERS,
    )


def test_a_file_without_a_sign_of_life_is_given_up_and_a_slow_one_is_not():
    files = tuple(Source(path=Path(name), relative=name, reader=Deadly()) for name in ("a", "slow", "hung"))
    unread: list[Source] = []
    ((index, (*_, hung), read),) = read_in_processes(
        [files], name_slowly, workers=1, on_unread=unread.append, silent_seconds=1.5
    )
    assert (index, read) == (0, ["a", "slow"])
    assert unread == [hung] and hung.unread
