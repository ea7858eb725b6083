import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pytest

from ringworld.core.config import from_json, parts, read_as, to_json, typed_command
from ringworld.core.errors import InputError
from ringworld.core.ranges import check_range


@dataclass(frozen=True, kw_only=True)
class Inner:
    kind: Literal["a", "b"] = "a"
    rate: float = 1.0

    def __post_init__(self) -> None:
        check_range(self, "rate", least=0)


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner = Inner()
    sizes: tuple[int, ...] = (1, 2)
    stages: tuple[Inner, ...] = (Inner(), Inner(kind="b"))
    folder: Path | None = None
    weights: dict[str, float]
    notes: list[str] = field(default_factory=list)


OUTER = Outer(weights={"text": 0.5}, folder=Path("x"), notes=["a"])


def test_the_parts_of_a_configuration_are_those_of_its_types():
    assert parts(Outer) == {
        "Outer": ["inner", "sizes", "stages", "folder", "weights", "notes"],
        "Inner": ["kind", "rate"],
    }


def test_a_configuration_comes_back_from_json_as_it_was():
    assert from_json(Outer, to_json(OUTER)) == OUTER
    assert from_json(Outer, to_json(replace(OUTER, folder=None))).folder is None


def test_a_command_is_kept_as_it_was_typed(monkeypatch):
    typed = ["generate", "--prompt", "it's a red circle", "--about", "my clips/$1.mp4"]
    monkeypatch.setattr(sys, "argv", ["/usr/bin/ringworld", *typed])
    printed = subprocess.run(
        ["sh", "-c", f'ringworld() {{ printf "%s\\n" "$@"; }}; {typed_command()}'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert printed.stdout.splitlines() == typed


@pytest.mark.parametrize(
    ("program", "command"),
    [
        ("/usr/bin/ringworld", "ringworld --seed 1"),
        ("lib/ringworld/__main__.py", "ringworld --seed 1"),
        ("my study.py", "python 'my study.py' --seed 1"),
        ("-c", "python -c --seed 1"),
    ],
)
def test_a_program_that_uses_the_library_is_not_called_ringworld(monkeypatch, program, command):
    monkeypatch.setattr(sys, "argv", [program, "--seed", "1"])
    assert typed_command() == command


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sizes": [1, "2"]}, "run.json.sizes[1]"),
        ({"sizes": [1, 10**400, 1.5]}, "run.json.sizes[2]"),
        ({"inner": {"kind": "c", "rate": 1.0}}, "run.json.inner.kind"),
        ({"inner": {"kind": "a", "speed": 1.0}}, "run.json.inner"),
        ({"weights": 3}, "run.json.weights"),
        ({"stages": {}}, "run.json.stages"),
        ({"inner": {"kind": "a", "rate": -1.0}}, "run.json.inner.rate"),
        ({"inner": {"kind": "a", "rate": 10**400}}, "run.json.inner.rate"),
        ({"notes": [1]}, "run.json.notes[0]"),
    ],
)
def test_what_does_not_fit_is_named(change, named):
    with pytest.raises(InputError) as refusal:
        from_json(Outer, to_json(OUTER) | change, where="run.json")
    assert refusal.value.field == named


@pytest.mark.parametrize("content", ["[]", "{}", '{"weights": 3}', "[" * 900 + "]" * 900])
def test_a_file_that_holds_something_else_is_named(content, tmp_path):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(InputError) as refusal:
        read_as(Outer, tmp_path / "run.json")
    assert refusal.value.path == tmp_path / "run.json"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError) as refusal:
        read_as(Outer, tmp_path / "run.json")
    assert refusal.value.path == tmp_path / "run.json"
