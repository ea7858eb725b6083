import errno
import os
import subprocess
import sys

import pytest

from ringworld.core.errors import InputError
from ringworld.core.files import (
    LOCK_FILE,
    append_jsonl,
    claim_folder,
    keep_jsonl,
    only_one,
    parse_json,
    read_json,
    read_jsonl,
    write_bytes_atomic,
    write_json_atomic,
    writing,
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


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("write() failed: No space left on device; writing x; at byte 0"),
    ],
)
def test_a_full_disk_is_named_and_leaves_the_old_file(error, tmp_path):
    path = tmp_path / "a.json"
    write_json_atomic(path, {"a": 1})
    with pytest.raises(InputError, match=r"a\.json: got no space left.* stays usable"):
        with writing(path) as temporary:
            temporary.write_bytes(b"half")
            raise error
    assert read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_another_error_of_a_writer_is_left_alone(tmp_path):
    with pytest.raises(PermissionError), writing(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "Permission denied")


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a": NaN}', '{"a": [-Infinity]}', '{"a": 1e999}', '{"a": 1', '"\xff"', ""],
    ids=lambda text: text[:10],
)
def test_json_that_no_writer_of_ours_makes_is_refused_by_name(text, tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"a\.json: got a damaged file"):
        read_json(path)
    path.write_bytes(b'{"step": 1}\n' + text.encode("latin-1") + b" x\n")
    with pytest.raises(InputError, match=r"a\.json, line 2: got a damaged file"):
        read_jsonl(path)


def test_numbers_of_other_programs_may_be_anything_but_depth_may_not():
    assert parse_json('{"text": "a", "score": Infinity}', numbers="any")["text"] == "a"
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 100_000, numbers="any")


IDENTITY = {"data": "a", "model": {"layers": 2, "heads": [1, 2]}}


def test_a_folder_belongs_to_one_identity_and_what_differs_from_it_is_named(tmp_path):
    path = tmp_path / "made_of.json"
    for _ in range(2):
        claim_folder(path, IDENTITY, holds="other things")
    assert read_json(path) == IDENTITY
    other = {"data": "b", "model": {"layers": 2, "heads": [2], "mlp": 3}}
    with pytest.raises(
        InputError, match="other things: another data, model.heads, model.mlp, expected a new"
    ):
        claim_folder(path, other, holds="other things")
    assert read_json(path) == IDENTITY


def test_a_folder_without_results_can_be_claimed_anew(tmp_path):
    path, results = tmp_path / "made_of.json", tmp_path / "results"
    for data in "ab":
        claim_folder(path, {"data": data}, holds="other things", results=results)
    results.touch()
    with pytest.raises(InputError, match="another data"):
        claim_folder(path, {"data": "c"}, holds="other things", results=results)
    assert read_json(path) == {"data": "b"}


def test_a_folder_is_free_again_once_its_process_is_killed(tmp_path):
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom ringworld.core.files import only_one\n"
        "with only_one(Path(sys.argv[1])): print(flush=True); time.sleep(60)\n"
    )
    folder = tmp_path / "new" / "out"
    with subprocess.Popen([sys.executable, "-c", program, folder], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(InputError, match=r"out: got another ringworld.*Wait for it"), only_one(folder):
            pass
        with only_one(folder / "part"):
            process.kill()
    with only_one(folder), pytest.raises(InputError, match="got a file"), only_one(folder / LOCK_FILE):
        pass


@pytest.mark.parametrize("line", [b"\0\0\0", b"[1]", b"\xc3"])
def test_a_line_that_is_no_object_is_refused_but_for_a_torn_last_one(line, tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line)
    assert read_jsonl(path) == [{"step": 1}]
    path.write_bytes(b'{"step": 1}\n' + line + b"\n")
    with pytest.raises(InputError, match=r"m\.jsonl, line 2"):
        keep_jsonl(path, lambda row: row["step"] <= 1)


@pytest.mark.parametrize("row", ['{"loss": 1}', '{"step": "one"}'])
def test_rows_that_do_not_say_what_is_asked_are_refused(row, tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text(row + "\n")
    with pytest.raises(InputError, match=r"m\.jsonl: got a damaged file"):
        keep_jsonl(path, lambda row: row["step"] <= 1)


def test_a_name_that_is_not_utf8_comes_back_as_it_was(tmp_path):
    row = {"file": os.fsdecode(b"caf\xe9.mp4")}
    write_json_atomic(tmp_path / "a.json", row)
    append_jsonl(tmp_path / "a.jsonl", row)
    assert read_json(tmp_path / "a.json") == read_jsonl(tmp_path / "a.jsonl")[0] == row
