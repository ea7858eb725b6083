"""Benchmarks as commands: they print what the library measures, write pictures, and end as they should."""

import json
import shlex
import sys

import pytest
from PIL import Image

from ringworld.cli import main as command_line

LAYOUTS = ("bench", "layouts", "--seq", "8192", "--members", "4")
ATTENTION = (
    "bench",
    "attention",
    "--devices",
    "8",
    "--seq",
    "512",
    "--heads",
    "8",
    "--head",
    "4",
    "--repeats",
    "1",
)


@pytest.fixture
def run(capsys, monkeypatch):
    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["ringworld", *arguments])
        command_line.main()
        return capsys.readouterr().out

    return run


def refused(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        command_line.main(arguments)
    assert ended.value.code == 2
    return "".join(capsys.readouterr())


@pytest.mark.parametrize(
    "typed",
    [
        (*LAYOUTS, "--layouts", "zigzag", "balanced", "--seed", "5", "--block-tokens", "64"),
        (*ATTENTION, "--documents", "4", "--lengths", "random", "--no-backward"),
    ],
    ids=["layouts", "attention"],
)
def test_a_measurement_is_printed_with_its_command_and_drawn(typed, run, tmp_path):
    out = tmp_path / "made.png"
    made = json.loads(run(*typed, "--json", "--out", str(out)))
    assert shlex.split(made["command"]) == ["ringworld", *typed, "--json", "--out", str(out)]
    with Image.open(out) as image:
        assert image.format == "PNG"
    shown = run(*typed)
    assert not shown.startswith("{") and len(shown.splitlines()) >= 3


def test_options_reach_the_measurement(run):
    made = json.loads(
        run(*LAYOUTS, "--lengths", "equal", "--documents", "8", "--block-tokens", "64", "--json")
    )
    assert (made["seq"], made["members"], made["documents"], made["block_tokens"]) == (8192, 4, 8, 64)
    options = ("--kv-heads", "1", "--documents", "2", "--dtype", "bfloat16", "--no-backward")
    problem = json.loads(run(*ATTENTION, *options, "--json"))["problem"]
    assert (problem["heads"], problem["kv_heads"], problem["head"]) == (8, 1, 4)
    assert (problem["lengths"], problem["dtype"], problem["backward"]) == ([256, 256], "bfloat16", False)


@pytest.mark.parametrize("part", ["layouts", "attention"])
def test_a_picture_that_cannot_be_written_is_refused_before_anything_is_measured(part, tmp_path, capsys):
    folder = tmp_path / "folder.png"
    folder.mkdir()
    no_folder = tmp_path / "no folder"
    no_folder.touch()
    for out in (".", folder, "a.jpg", "a", no_folder / "a.png"):
        # A sequence of no token is refused too, but later.
        assert "--out" in refused(capsys, "bench", part, "--seq", "0", "--out", str(out))


@pytest.mark.parametrize(
    "typed",
    [
        (*LAYOUTS, "--members", "0"),
        (*LAYOUTS, "--sigma", "1000"),
        (*LAYOUTS, "--layouts"),
        (*LAYOUTS, "--member", "4"),
        (*LAYOUTS, "--layouts", "zigzig"),
        (*ATTENTION, "--documents", "513"),
        (*ATTENTION, "--peers", ""),
        (*ATTENTION, "--head", str(10**22)),
        ("bench",),
        ("bench", "layuts"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_measured_exits_with_2(typed, capsys):
    assert "Traceback" not in refused(capsys, *typed)
