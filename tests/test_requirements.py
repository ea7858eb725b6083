"""The pinned requirements name versions and hashes, and nothing else: no address, host or path."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PINNED = sorted((ROOT / "requirements").glob("*.txt"))
_VERSION = re.compile(r"[a-z0-9][a-z0-9-]*==[0-9][0-9a-z.+!]*( ; [a-z_A-Z0-9 '\".=<>!()*-]+)? \\")
_HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}( \\)?")


@pytest.mark.parametrize("path", PINNED, ids=lambda path: path.stem)
def test_every_line_is_a_version_or_a_hash(path):
    wrong = [
        line
        for line in path.read_text().splitlines()
        if not (_VERSION.fullmatch(line) or _HASH.fullmatch(line))
    ]
    assert not wrong


def test_no_dependency_is_an_address():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = project["dependencies"] + sum(project["optional-dependencies"].values(), [])
    assert not [dependency for dependency in named if "@" in dependency or "://" in dependency]


@pytest.mark.parametrize(
    ("file", "extras"),
    [("run", ("build", "serve")), ("default", ("build", "docs", "lint", "serve", "test"))],
)
def test_every_dependency_of_an_environment_is_pinned_as_in_all(file, extras):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = project["dependencies"] + sum((project["optional-dependencies"][name] for name in extras), [])
    lines = (ROOT / "requirements" / f"{file}.txt").read_text().splitlines()
    assert {re.split(r"[\[<>=]", dependency)[0] for dependency in named} <= {x.split("==")[0] for x in lines}
    assert set(lines) <= set((ROOT / "requirements" / "default.txt").read_text().splitlines())
