import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringworld.core.config import to_json
from ringworld.core.errors import InputError
from ringworld.core.files import write_json_atomic
from ringworld.data.examples import Example
from ringworld.data.store import FORMAT, Dataset, ExampleStore, ShardWriter, read_examples, write_table
from ringworld.text.vocabulary import Vocabulary


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**31 - 1), st.booleans()), min_size=1, max_size=20), st.text())
def test_an_example_comes_back_as_it_was(tmp_path_factory, items, source):
    tokens, loss = (np.array(column) for column in zip(*items))
    source = source.encode("utf-8", "replace").decode()
    vocabulary = Vocabulary(text_size=2**31, codes=1, codes_per_frame=1)
    made = Example(
        tokens=tokens.astype(np.int32), loss=loss, kind="video_qa", source=source, start_token=2**40
    )
    out = tmp_path_factory.mktemp("data")
    with ShardWriter(out / "shards/s", vocabulary=vocabulary) as writer:
        writer.add(made, split="train")
        writer.finish({})
    write_table(out / "manifest.parquet", pq.read_table(out / "shards/s.parquet"))
    dataset = Dataset(format=FORMAT, vocabulary=vocabulary, text_tokenizer="t", frame_tokenizer="f")
    write_json_atomic(out / "dataset.json", to_json(dataset))
    (read,) = read_examples(out, split="train")
    assert (read.kind, read.source, read.start_token) == (made.kind, made.source, made.start_token)
    assert np.array_equal(read.tokens, made.tokens) and np.array_equal(read.loss, made.loss)


@pytest.fixture
def copy(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "copy"))


def test_examples_of_some_kinds_can_be_read_alone(prepared: Path):
    kinds = {e.kind for e in read_examples(prepared, split="train", kinds=["text", "video_qa"])}
    assert kinds == {"text", "video_qa"}


def first_shard(folder: Path) -> Path:
    return min((folder / "shards").glob("*.array_record"))


def test_a_missing_and_a_cut_shard_are_named(copy: Path):
    shard = first_shard(copy)
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=rf"{shard.name}.* record 0.*cut"):
        ExampleStore(copy).read(0)
    shard.unlink()
    with pytest.raises(InputError, match=rf"{shard.name}: got no such file"):
        ExampleStore(copy).read(0)


def test_a_record_that_changed_is_found_by_its_checksum(copy: Path, prepared: Path):
    shards = sorted((copy / "shards").glob("*.array_record"))
    shards[1].rename(shards[0])
    with pytest.raises(InputError, match=r"record 0: got checksum"):
        ExampleStore(copy).read(0)


def test_a_folder_without_prepared_data_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="ringworld prepare"):
        ExampleStore(tmp_path)
