import pytest

from ringworld.core.errors import InputError
from ringworld.core.files import (
    append_jsonl,
    keep_jsonl,
    read_json,
    read_jsonl,
    write_bytes_atomic,
    write_json_atomic,
)


def test_an_atomic_write_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.json"
    write_json_atomic(path, {"a": 1})
    with pytest.raises(ValueError, match="Out of range float"):
        write_json_atomic(path, {"a": float("nan")})
    with pytest.raises(TypeError):
        write_bytes_atomic(path, "not bytes")  # pyright: ignore[reportArgumentType]
    assert read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_torn_last_line_is_left_out(tmp_path):
    path = tmp_path / "m.jsonl"
    assert read_jsonl(path) == []
    append_jsonl(path, {"step": 1})
    append_jsonl(path, {"step": 2})
    with path.open("a") as stream:
        stream.write('{"step": 3')
    assert [row["step"] for row in read_jsonl(path)] == [1, 2]
    keep_jsonl(path, lambda row: row["step"] <= 1)
    assert path.read_text() == '{"step": 1}\n'


def test_json_that_is_missing_or_broken_is_named(tmp_path):
    with pytest.raises(InputError, match="a.json"):
        read_json(tmp_path / "a.json")
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(InputError, match="b.json"):
        read_json(tmp_path / "b.json")
