"""A second process reads what the first compiled, and a cache that cannot be written is no error."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ringworld.core.compilation import FOLDER_VARIABLE, cache_folder

PROGRAM = """
import jax, sys
from ringworld.core.compilation import keep_compiled_programs
keep_compiled_programs()
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
print(jax.jit(lambda x: x * 3 + 1)(jax.numpy.arange(4.0)).tolist())
print("/jax/compilation_cache/cache_hits" in hits)
"""


def run(**environment: str) -> list[str]:
    """Run the program above as a user's process, in which a warning is an error."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XDG_"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not done.stderr
    return done.stdout.splitlines()


def test_a_second_process_reads_what_the_first_compiled(tmp_path):
    first, second = (run(XDG_CACHE_HOME=str(tmp_path), **{FOLDER_VARIABLE: ""}) for _ in range(2))
    assert first == second == ["[1.0, 4.0, 7.0, 10.0]", "False"]
    named = {FOLDER_VARIABLE: str(tmp_path / "named")}
    first, second = (run(**named) for _ in range(2))
    assert first == ["[1.0, 4.0, 7.0, 10.0]", "False"]
    assert second == ["[1.0, 4.0, 7.0, 10.0]", "True"]


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").touch()
    assert run(**{FOLDER_VARIABLE: str(tmp_path / "file" / "below")})[1] == "False"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"XDG_CACHE_HOME": "/caches"}, Path("/caches/ringworld/xla")),
        ({"HOME": "/home/me"}, Path("/home/me/.cache/ringworld/xla")),
        ({FOLDER_VARIABLE: "/elsewhere", "XDG_CACHE_HOME": "/caches"}, Path("/elsewhere")),
        ({FOLDER_VARIABLE: "off", "XDG_CACHE_HOME": "/caches"}, None),
    ],
)
def test_the_environment_says_where(environment, expected, monkeypatch):
    for name in (FOLDER_VARIABLE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == expected
