import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ringworld.core.errors import InputError
from ringworld.core.files import (
    LOCK_FILE,
    append_jsonl,
    clear_unfinished,
    damage_of,
    fitted,
    keep_jsonl,
    only_one,
    parse_json,
    read_json,
    read_jsonl,
    write_bytes_atomic,
    write_json_atomic,
    writing,
    writing_folder,
)


def test_an_atomic_write_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.json"
    write_json_atomic(path, {"a": 1})
    with pytest.raises(ValueError):
        write_json_atomic(path, {"a": float("nan")})
    with pytest.raises(TypeError):
        write_bytes_atomic(path, "not bytes")  # pyright: ignore[reportArgumentType]
    assert read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_what_a_killed_process_left_of_a_file_is_deleted_and_nothing_else(tmp_path):
    program = """import os, signal, sys
from pathlib import Path
from ringworld.core.files import writing
with writing(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program, tmp_path / "a.json"], check=False)
    (half,) = tmp_path.iterdir()
    kept = [tmp_path / name for name in (".a.tmp", "a.1.tmp", ".a.json.1.tmp.json", ".a.x.tmp")]
    for path in kept:
        path.touch()
    clear_unfinished(tmp_path, tmp_path / "nowhere")
    assert half not in tmp_path.iterdir() and set(tmp_path.iterdir()) == set(kept)


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
    (tmp_path / "b.json").write_text("{")
    (tmp_path / "c.json").mkdir()
    for name in ("a.json", "b.json", "c.json"):
        with pytest.raises(InputError) as refusal:
            read_json(tmp_path / name)
        assert refusal.value.path == tmp_path / name


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EFBIG, "File too large"),
        RuntimeError("write() failed: No space left on device; writing x; at byte 0"),
    ],
)
def test_a_full_disk_is_named_and_leaves_the_old_file(error, tmp_path):
    path = tmp_path / "a.json"
    write_json_atomic(path, {"a": 1})
    with pytest.raises(InputError) as refusal, writing(path) as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert refusal.value.path == path
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
    with pytest.raises(InputError) as refusal:
        read_json(path)
    assert refusal.value.path == path
    path.write_bytes(b'{"step": 1}\n' + text.encode("latin-1") + b" x\n")
    with pytest.raises(InputError) as refusal:
        read_jsonl(path)
    assert (refusal.value.path, refusal.value.field) == (path, "line 2")


def test_numbers_of_other_programs_may_be_anything_but_depth_may_not():
    assert parse_json('{"text": "a", "score": Infinity}', numbers="any")["text"] == "a"
    with pytest.raises(ValueError):  # and no RecursionError
        parse_json("[" * 100_000, numbers="any")


@pytest.mark.parametrize("old", [True, False])
def test_a_folder_appears_whole_in_place_of_the_old_one_or_not_at_all(old, tmp_path):
    folder = tmp_path / "model"
    if old:
        folder.mkdir()
        (folder / "old").touch()
    with pytest.raises(RuntimeError), writing_folder(folder) as unfinished:
        (unfinished / "half").touch()
        raise RuntimeError("stopped")
    assert [path.name for path in tmp_path.iterdir()] == (["model"] if old else [])
    with writing_folder(folder) as unfinished:
        (unfinished / "new").touch()
        assert (folder / "old").exists() == old
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_ends_between_the_two_renames_leaves_the_old_folder(tmp_path, monkeypatch):
    rename = Path.replace

    def interrupted(path: Path, target: Path) -> Path:
        if path.name == ".model.tmp":
            raise KeyboardInterrupt
        return rename(path, target)

    (tmp_path / "model").mkdir()
    (tmp_path / "model/old").touch()
    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), writing_folder(tmp_path / "model") as unfinished:
        (unfinished / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "old"]


def test_what_a_killed_process_left_of_a_folder_is_cleared_away(tmp_path):
    folder = tmp_path / "model"
    for left in (".model.tmp", ".model.old"):
        (tmp_path / left).mkdir()
        (tmp_path / left / left).touch()
    with pytest.raises(RuntimeError), writing_folder(folder) as unfinished:
        assert [path.name for path in unfinished.iterdir()] == [LOCK_FILE]
        raise RuntimeError("stopped")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]  # killed between two renames
    assert [path.name for path in folder.iterdir()] == [".model.old"]


def test_a_sigterm_leaves_nothing_of_a_folder(tmp_path):
    program = """import os, signal, sys
from pathlib import Path
from ringworld.core.files import writing_folder
with writing_folder(Path(sys.argv[1])) as unfinished:
    (unfinished / "half").touch()
    os.kill(os.getpid(), signal.SIGTERM)
"""
    ran = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "model"], check=False, capture_output=True
    )
    assert ran.returncode and b"Stopped" in ran.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [".", "link"])
def test_a_folder_may_be_named_by_a_dot_or_a_link(name, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(folder if name == "." else tmp_path)
    with writing_folder(Path(name)) as unfinished:
        (unfinished / "new").touch()
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "model"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file/model", Path("/proc/model")):
        with pytest.raises(InputError) as refusal, writing_folder(folder):
            pass
        assert refusal.value.path == folder


def test_a_folder_that_another_process_writes_is_left_to_it(tmp_path):
    folder = tmp_path / "model"
    with writing_folder(folder) as unfinished:
        (unfinished / "new").touch()
        with pytest.raises(InputError) as refusal, writing_folder(folder):
            pass
        assert refusal.value.path == folder
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_files_have_the_mode_of_any_new_one_whichever_library_wrote_them(tmp_path):
    def save(path: Path) -> None:
        path.touch(mode=0o600)

    (tmp_path / "any").touch()
    expected = (tmp_path / "any").stat().st_mode
    with writing(tmp_path / "file") as unfinished:
        save(unfinished)
    with writing_folder(tmp_path / "folder") as unfinished:
        save(unfinished / "file")
    for path in (tmp_path / "file", tmp_path / "folder/file"):
        assert path.stat().st_mode == expected


def test_what_another_version_wrote_is_fitted_to_ours():
    ours = {"a": 1, "inner": {"b": 2, "c": 3}, "any": {}}
    theirs = {"inner": {"c": 4, "new": 5}, "any": {"x": 1}, "new": 6}
    assert fitted(ours, theirs) == {"a": 1, "inner": {"b": 2, "c": 4}, "any": {"x": 1}}
    assert fitted(ours, {"inner": 7}) == {"a": 1, "inner": 7, "any": {}}  # left for the type to refuse


def test_a_folder_is_free_again_once_its_process_is_killed(tmp_path):
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom ringworld.core.files import only_one\n"
        "with only_one(Path(sys.argv[1])): print(flush=True); time.sleep(60)\n"
    )
    folder = tmp_path / "new" / "out"
    with subprocess.Popen([sys.executable, "-c", program, folder], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(InputError) as refusal, only_one(folder):
            pass
        assert refusal.value.path == folder
        with only_one(folder / "part"):
            process.kill()
    with only_one(folder), pytest.raises(InputError) as refusal, only_one(folder / LOCK_FILE):
        pass
    assert refusal.value.path == folder / LOCK_FILE


@pytest.mark.parametrize("line", [b"\0\0\0", b"[1]", b"\xc3"])
def test_a_line_that_is_no_object_is_refused_but_for_a_torn_last_one(line, tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line)
    assert read_jsonl(path) == [{"step": 1}]
    path.write_bytes(b'{"step": 1}\n' + line + b"\n")
    with pytest.raises(InputError) as refusal:
        keep_jsonl(path, lambda row: row["step"] <= 1)
    assert (refusal.value.path, refusal.value.field) == (path, "line 2")


@pytest.mark.parametrize("row", ['{"loss": 1}', '{"step": "one"}'])
def test_rows_that_do_not_say_what_is_asked_are_refused(row, tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text(row + "\n")
    with pytest.raises(InputError) as refusal:
        keep_jsonl(path, lambda row: row["step"] <= 1)
    assert refusal.value.path == path


def test_a_name_that_is_not_utf8_comes_back_as_it_was(tmp_path):
    row = {"file": os.fsdecode(b"caf\xe9.mp4")}
    write_json_atomic(tmp_path / "a.json", row)
    append_jsonl(tmp_path / "a.jsonl", row)
    assert read_json(tmp_path / "a.json") == read_jsonl(tmp_path / "a.jsonl")[0] == row


def test_what_git_left_in_the_place_of_a_large_file_is_called_that(tmp_path):
    (tmp_path / "a.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    (tmp_path / "b.json").write_text("version")
    reasons = [damage_of(tmp_path / name, ValueError("broken")) for name in ("a.json", "b.json", "none")]
    assert "git lfs" in reasons[0] and reasons[1:] == ["broken"] * 2
