import errno
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringworld.core.config import to_json
from ringworld.core.errors import InputError
from ringworld.core.origin import Origin, write_origin
from ringworld.data.clips import ClipCodes
from ringworld.data.config import ClipConfig
from ringworld.data.examples import Example
from ringworld.data.making import Group, Unfilled
from ringworld.data.recipe import Shown
from ringworld.data.store import (
    FORMAT,
    MANIFEST_FILE,
    Dataset,
    ExampleStore,
    read_examples,
    read_manifest,
    write_manifest,
    write_shard,
)
from ringworld.text import chat
from ringworld.text.vocabulary import Vocabulary


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2**31 - 1), st.booleans()), min_size=1, max_size=20),
    st.text(),
    st.integers(1, 9),
)
def test_examples_come_back_as_they_were_with_the_clips_that_they_share(
    tmp_path_factory, items, source, frames
):
    tokens, loss = (np.array(column) for column in zip(*items))
    source = source.encode("utf-8", "replace").decode()
    vocabulary = Vocabulary(text_size=2**31 - 2**18, codes=2**17, codes_per_frame=2)
    made = Example(
        tokens=np.append(tokens % 2**17, chat.FRAMES).astype(np.int32),
        loss=np.append(loss, [True]),
        kind="video_qa",
        source=source,
        dataset="clips",
        start_token=2**40,
    )
    codes = np.arange(2 * frames, dtype=np.int32).reshape(frames, 2) + (2**16 if frames > 5 else 0)
    group = Group(
        split="train",
        clips=(ClipCodes(codes=codes, frames_per_second=4.0, seconds=frames / 2),),
        examples=(
            Unfilled(example=made, shown=(Shown(clip=0),)),
            Unfilled(example=made, shown=(Shown(clip=0, frame=frames - 1),)),
        ),
    )
    out = tmp_path_factory.mktemp("data")
    write_manifest(out / "manifest.parquet", write_shard(out / "shards/s", [group], vocabulary=vocabulary))
    dataset = Dataset(format=FORMAT, vocabulary=vocabulary, text_tokenizer="t", frame_tokenizer="f")
    write_origin(out, Origin(kind="examples", identity={"made_by": to_json(dataset)}))
    store = ExampleStore(out)
    assert store.lengths().tolist() == [len(e) for e in read_examples(out, split="train")]
    assert store.video_seconds().tolist() == [frames / 2, 0.0]  # the second shows a picture
    for read, expected in zip(read_examples(out, split="train"), (codes, codes[-1:])):
        ids = vocabulary.encode_frames(expected)
        assert (read.kind, read.source, read.dataset, read.start_token) == (
            "video_qa",
            source,
            "clips",
            2**40,
        )
        assert read.tokens.tolist() == [*(tokens % 2**17).tolist(), *ids.tolist()]
        assert read.loss.tolist() == [*loss.tolist(), *[True] * len(ids)]


@pytest.mark.parametrize("rate", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("most", [0, 1, 3])
def test_the_length_of_an_example_is_known_before_it_is_read(prepared: Path, rate, most):
    store = ExampleStore(prepared)
    clips = ClipConfig(max_frames=most, frames_per_second=rate)
    lengths, cuts = store.lengths(clips), store.column("cut")
    for index in range(0, len(store), 5):
        if cuts[index] == "never":
            assert len(store.read(index, clips=clips)) == lengths[index]


@pytest.fixture
def copy(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "copy"))


def test_examples_of_some_kinds_can_be_read_alone(prepared: Path):
    kinds = {e.kind for e in read_examples(prepared, split="train", kinds=["text", "video_qa"])}
    assert kinds == {"text", "video_qa"}


def first_shard(folder: Path) -> Path:
    name = read_manifest(folder / MANIFEST_FILE)["shard"][0].as_py()
    return folder / "shards" / f"{name}.array_record"


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files as Linux lists them")
def test_no_more_shards_are_open_than_may_be(prepared: Path):
    def open_shards() -> int:
        links = (os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink())
        return sum(str(prepared) in link and link.endswith(".array_record") for link in links)

    before = open_shards()
    few, many = ExampleStore(prepared, most_open=2), ExampleStore(prepared)
    rows = np.random.default_rng(0).permutation(len(few))
    shards = set(few.column("shard"))
    assert len(shards) > 2
    for row in rows.tolist():
        assert np.array_equal(few.read(row).tokens, many.read(row).tokens)
    assert open_shards() - before == 2 + len(shards)


def test_a_missing_and_a_cut_shard_are_named(copy: Path):
    shard = first_shard(copy)
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    for damage in ("cut", "missing"):
        with pytest.raises(InputError) as refused:
            ExampleStore(copy).read(0)
        assert refused.value.path == shard, damage
        shard.unlink(missing_ok=True)


def test_a_record_that_changed_is_found_by_its_checksum(copy: Path, prepared: Path):
    shard = first_shard(copy)
    next(other for other in shard.parent.glob("*.array_record") if other != shard).rename(shard)
    with pytest.raises(InputError) as refused:
        ExampleStore(copy).read(0)
    assert refused.value.path == shard


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_manifest_is_named_with_what_to_do(copy: Path, damage):
    path = copy / "manifest.parquet"
    content = bytearray(path.read_bytes())
    # Byte 200 is in the pages of a column, which Parquet does not check unless asked.
    content[200] ^= 1
    path.write_bytes({"cut": content[:-100], "changed": content, "empty": b""}[damage])
    with pytest.raises(InputError) as refused:
        ExampleStore(copy)
    assert refused.value.path == path and refused.value.remedy


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads as Linux lists them")
def test_a_manifest_is_read_without_a_thread_of_arrow(prepared: Path):
    """Such a thread that lets go of Python's memory while the process ends aborts it, one time in ten."""
    count = "len(os.listdir('/proc/self/task'))"
    program = (
        "import os, sys; from pathlib import Path; from ringworld.data.store import read_manifest;"
        f"before = {count}; read_manifest(Path(sys.argv[1])); print({count} - before)"
    )
    command = [sys.executable, "-c", program, prepared / MANIFEST_FILE]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "0\n"


def test_another_table_is_no_manifest(copy: Path):
    path = copy / "manifest.parquet"
    write_manifest(path, read_manifest(path).drop_columns(["checksum"]))
    with pytest.raises(InputError) as refused:
        ExampleStore(copy)
    assert refused.value.path == path


def test_data_of_another_format_are_refused(copy: Path):
    dataset = ExampleStore(copy).dataset
    changed = to_json(replace(dataset, format=FORMAT + 1))
    write_origin(copy, Origin(kind="examples", identity={"made_by": changed}))
    with pytest.raises(InputError) as refused:
        ExampleStore(copy)
    assert (refused.value.path, refused.value.field) == (copy, "format")


def test_a_shard_for_which_there_is_no_room_leaves_what_was_there(copy: Path, prepared: Path, vocabulary):
    def full_disk():
        example = next(read_examples(prepared, split="train"))
        yield Group(split="train", clips=(), examples=(Unfilled(example=example),))
        raise OSError(errno.ENOSPC, "No space left on device")

    shard = first_shard(copy)
    before = shard.read_bytes(), sorted(copy.rglob("*"))
    with pytest.raises(InputError) as refused:
        write_shard(shard.with_suffix(""), full_disk(), vocabulary=vocabulary)
    assert refused.value.path == shard
    assert (shard.read_bytes(), sorted(copy.rglob("*"))) == before


def test_a_folder_without_prepared_data_is_refused(tmp_path: Path):
    with pytest.raises(InputError) as refused:
        ExampleStore(tmp_path)
    assert refused.value.path == tmp_path
