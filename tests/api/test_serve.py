"""What `serve` takes from its arguments and the environment."""

from pathlib import Path

import pytest

from ringworld.api.serve import serve
from ringworld.core.errors import InputError
from ringworld.serving.config import ServingConfig


@pytest.fixture
def served(monkeypatch) -> list[ServingConfig]:
    """Return what servers are configured with, none of which runs."""
    found: list[ServingConfig] = []
    monkeypatch.setattr("ringworld.api.serve.load", lambda *_, **__: None)
    monkeypatch.setattr("ringworld.serving.server.run", lambda _, *, config, **__: found.append(config))
    monkeypatch.setenv("RINGWORLD_API_KEYS", "key-of-the-first, key-of-the-second,")
    return found


def test_keys_are_those_of_the_file_or_else_of_the_environment(served, tmp_path):
    (tmp_path / "keys").write_text("key-of-a-line\r\n\n  key-of-another  \n")
    serve(Path("tiny"), key_file=tmp_path / "keys")
    serve(Path("tiny"))
    assert [config.keys for config in served] == [
        ("key-of-a-line", "key-of-another"),
        ("key-of-the-first", "key-of-the-second"),
    ]


def test_a_new_folder_of_memories_is_for_its_owner_alone(served, tmp_path):
    serve(Path("tiny"), memory_folder=tmp_path / "memories")
    assert (tmp_path / "memories").stat().st_mode & 0o77 == 0


@pytest.mark.parametrize("content", ["short", "k\u00e4" * 9])
def test_a_file_without_a_usable_key_is_refused(served, tmp_path, content):
    file = tmp_path / "keys"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as refused:
        serve(Path("tiny"), key_file=file)
    assert refused.value.field == "keys"
    assert content not in str(refused.value)
    file.write_text("\n \n")
    with pytest.raises(InputError) as empty:
        serve(Path("tiny"), key_file=file)
    assert empty.value.path == file
    assert not served
