import json
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pytest

from ringworld.core.config import from_json, read_run, to_json, write_run
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


def test_a_configuration_comes_back_from_json_as_it_was():
    assert from_json(Outer, to_json(OUTER)) == OUTER
    assert from_json(Outer, to_json(replace(OUTER, folder=None))).folder is None


def test_run_json_is_read_back(tmp_path):
    write_run(tmp_path, OUTER)
    assert read_run(tmp_path, Outer) == OUTER


def test_run_json_holds_the_command_as_it_was_typed(tmp_path, monkeypatch):
    typed = ["generate", "--prompt", "it's a red circle", "--about", "my clips/$1.mp4"]
    monkeypatch.setattr(sys, "argv", ["/usr/bin/ringworld", *typed])
    write_run(tmp_path, OUTER)
    command = json.loads((tmp_path / "run.json").read_text())["command"]
    printed = subprocess.run(
        ["sh", "-c", f'ringworld() {{ printf "%s\\n" "$@"; }}; {command}'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert printed.stdout.splitlines() == typed


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sizes": [1, "2"]}, r"sizes\[1\]"),
        ({"inner": {"kind": "c", "rate": 1.0}}, "inner.kind"),
        ({"inner": {"kind": "a", "speed": 1.0}}, "speed"),
        ({"weights": 3}, "weights"),
        ({"stages": {}}, "stages"),
        ({"inner": {"kind": "a", "rate": -1.0}}, r"^run\.json\.inner: rate: got -1\.0, expected at least 0"),
        ({"notes": [1]}, r"notes\[0\]"),
    ],
)
def test_what_does_not_fit_is_named(change, named):
    with pytest.raises(InputError, match=named):
        from_json(Outer, to_json(OUTER) | change, where="run.json")


@pytest.mark.parametrize("content", ["[]", "{}", '{"config": 3}', "[" * 900 + "]" * 900])
def test_a_run_json_that_holds_something_else_is_named(content, tmp_path):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(InputError, match=r"run\.json"):
        read_run(tmp_path, Outer)


def test_a_folder_without_run_json_is_named(tmp_path):
    with pytest.raises(InputError, match="run.json"):
        read_run(tmp_path, Outer)
