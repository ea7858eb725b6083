"""Large files in parts: what is read of all parts is what is read of the file."""

import json
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ringworld.data.config import PrepareConfig
from ringworld.data.division import divide
from ringworld.data.quarantine import Quarantined
from ringworld.data.readers.records import LINES, PARQUET
from ringworld.data.readers.tar import TAR
from ringworld.data.reading import Reading
from ringworld.data.sources import Reader, Source
from ringworld.data.store import read_examples

CONFIG = PrepareConfig(held_out_fraction=0.3)
TEXTS = [f"The old man walks to river {number}. " * (1 + number % 7) for number in range(60)]
Write = Callable[[Path], Path]


def write_lines(path: Path) -> Path:
    rows = [json.dumps({"text": text}) for text in TEXTS]
    rows[20:23] = ["", "{", rows[21] + "\r"]
    path.write_text("\ufeff" + "\n".join(rows))
    return path


def write_parquet(path: Path) -> Path:
    pq.write_table(pa.table({"text": [*TEXTS, ""]}), path, row_group_size=4)
    return path


def write_one_group(path: Path) -> Path:
    pq.write_table(pa.table({"text": TEXTS}), path, data_page_size=200, compression="none")
    return path


def write_tar(path: Path, *, mode: str = "w", **options) -> Path:
    with tarfile.open(path, mode, **options) as tar:  # pyright: ignore[reportArgumentType, reportCallIssue]
        for number, text in enumerate(TEXTS):
            name = "a" * 200 + f"/{number}"  # in a separate header
            for ending, content in ((".txt", text), (".json", "{}"), (".cls", "3")):
                member = tarfile.TarInfo(name + ending)
                member.size = len(content)
                tar.addfile(member, BytesIO(content.encode()))
    return path


def written(path: Path, reader: Reader) -> Source:
    return Source(path=path, relative=path.name, reader=reader, split="train")


def read(sources: tuple[Source, ...]) -> tuple[list, list[Quarantined]]:
    bad: list[Quarantined] = []
    found = [sample for one in sources for sample in one.reader.read(one, config=CONFIG, quarantined=bad)]
    return found, bad


@pytest.mark.parametrize(
    ("reader", "write"),
    [(LINES, write_lines), (PARQUET, write_parquet), (PARQUET, write_one_group), (TAR, write_tar)],
)
def test_parts_hold_the_samples_of_their_file_in_order(tmp_path: Path, reader: Reader, write: Write):
    source = written(write(tmp_path / "a"), reader)
    small = Source(path=tmp_path / "gone", relative="gone", reader=reader)
    for most_bytes in (1, 700, 5000):
        *parts, other = divide([source, small], most_bytes=most_bytes, reading=Reading())
        assert other == small and (len(parts) > 4 or most_bytes == 5000)
        assert read(tuple(parts)) == read((source,))
    assert divide([source], most_bytes=10**6, reading=Reading()) == (source,)


def test_what_cannot_be_divided_is_read_as_a_whole(tmp_path: Path):
    utf16 = tmp_path / "a.jsonl"
    utf16.write_text(write_lines(tmp_path / "b.jsonl").read_text().removeprefix("\ufeff"), encoding="utf-16")
    zipped = write_tar(tmp_path / "a.tar.gz", mode="w:gz")
    of_all = write_tar(tmp_path / "b.tar", format=tarfile.PAX_FORMAT, pax_headers={"comment": "of all"})
    backwards = tmp_path / "d.tar"
    with tarfile.open(backwards, "w", format=tarfile.PAX_FORMAT) as tar:
        for number in range(3):
            member = tarfile.TarInfo(f"{number}.txt")
            member.pax_headers = {"size": "-1536"}  # where its own header begins
            tar.addfile(member)
    cut = tmp_path / "c.tar"
    cut.write_bytes(write_tar(tmp_path / "a.tar").read_bytes()[:30_000])
    sources = [written(utf16, LINES), *(written(path, TAR) for path in (zipped, of_all, backwards, cut))]
    assert divide(sources, most_bytes=100, reading=Reading()) == tuple(sources)


def test_a_large_file_makes_several_shards_with_the_examples_of_one(tmp_path: Path, run_prepare):
    source = write_lines(tmp_path / "a.jsonl")
    run = {"texts": (source,), "workers": 1}
    made = {
        most_bytes: run_prepare(
            tmp_path / str(most_bytes), config=PrepareConfig(bytes_per_shard=most_bytes), **run
        )
        for most_bytes in (10**6, 1000)
    }
    whole, divided = made.values()
    assert whole.shards_made == 1 and divided.shards_made > 4
    assert (whole.files, whole.parts, whole.quarantined) == (1, divided.parts, divided.quarantined)
    for split in ("train", "held_out"):
        one, several = (
            [(each.source, each.tokens.tolist()) for each in read_examples(tmp_path / str(n), split=split)]
            for n in made
        )
        assert one == several != []
    # A part that is missing is made again by itself.
    shards = tmp_path / "1000/shards"
    before = {path.name: path.read_bytes() for path in shards.iterdir()}
    sorted(shards.glob("*.parquet"))[2].unlink()
    again = run_prepare(tmp_path / "1000", config=PrepareConfig(bytes_per_shard=1000), **run)
    assert again.shards_made == 1
    assert {path.name: path.read_bytes() for path in shards.iterdir()} == before
