from pathlib import Path

import fsspec
import pytest

from ringworld.core.errors import InputError
from ringworld.data.remote import address_of, fetch


@pytest.fixture
def memory():
    system = fsspec.filesystem("memory")
    system.pipe("/books/a.txt", b"The old man walks to the river.")
    system.pipe("/books/more/b.txt", b"The old man walks back.")
    yield system
    system.rm("/", recursive=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize(
    ("path", "address"),
    [
        ("s3://bucket/books", "s3://bucket/books"),
        (Path("s3://bucket/books"), "s3://bucket/books"),
        (Path("file:///data/books"), "file:///data/books"),
        ("books", None),
        ("/data/a:b", None),
        ("C:/data", None),
    ],
)
def test_what_is_an_address_also_as_a_path(path: str | Path, address: str | None):
    assert address_of(path) == address


def test_a_folder_of_that_name_is_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "memory:/books").mkdir(parents=True)
    assert address_of("memory:/books") is None


def test_files_are_copied_once_and_follow_what_changes(memory, tmp_path: Path):
    folder = fetch("memory://books", into=tmp_path)
    assert folder.name == "books"
    assert set(contents(folder)) == {"a.txt", "more/b.txt"}
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*.txt")}
    assert fetch("memory://books", into=tmp_path) == folder
    assert times == {path: path.stat().st_mtime_ns for path in folder.rglob("*.txt")}
    memory.pipe("/books/a.txt", b"Another.")
    memory.rm("/books/more/b.txt")
    fetch("memory://books", into=tmp_path)
    assert contents(folder) == {"a.txt": b"Another."}


def test_a_single_file_and_a_local_address(memory, tmp_path: Path):
    assert fetch("memory://books/a.txt", into=tmp_path).read_bytes().startswith(b"The old")
    (tmp_path / "here").mkdir()
    assert fetch(f"file://{tmp_path}/here", into=tmp_path / "none") == tmp_path / "here"
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("address", ["memory://nothing", "noscheme://a/b"])
def test_an_address_of_nothing_is_refused(memory, tmp_path: Path, address: str):
    with pytest.raises(InputError) as refused:
        fetch(address, into=tmp_path)
    assert refused.value.value == address


def test_whatever_error_a_file_system_has_is_said_of_the_address(memory, tmp_path: Path, monkeypatch):
    class NoKeys(Exception):
        pass

    def refuses(self, *of, **options):
        raise NoKeys

    for method in ("get_file", "find"):
        monkeypatch.setattr(type(memory), method, refuses)
        with pytest.raises(InputError) as refused:
            fetch("memory://books", into=tmp_path)
        assert refused.value.value == "memory://books"
        monkeypatch.undo()


def test_a_copy_that_breaks_off_leaves_no_half_of_a_file(memory, tmp_path: Path, monkeypatch):
    def breaks(self, name: str, target: str) -> None:
        Path(target).write_bytes(b"The")
        raise ConnectionError("reset by peer")

    monkeypatch.setattr(type(memory), "get_file", breaks)
    with pytest.raises(InputError):
        fetch("memory://books", into=tmp_path)
    assert not [name for name in contents(tmp_path) if name.endswith(".txt")]
    monkeypatch.undo()
    assert set(contents(fetch("memory://books", into=tmp_path))) == {"a.txt", "more/b.txt"}
