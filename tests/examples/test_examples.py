"""The examples run as they stand, each in a process of its own, as a reader runs them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ringworld.vision.write_media import write_video
from tests.report.sample_run import moving_square

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def run(name: str, *arguments: str | Path) -> str:
    ran = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, str]:
    """Files of one's own, and a model of the smallest preset that was trained on them."""
    root = tmp_path_factory.mktemp("examples")
    for index in range(4):
        video = root / "videos" / f"clip{index}.mp4"
        write_video(video, moving_square(color=(60 * index, 40, 40)), frames_per_second=4)
        video.with_suffix(".txt").write_text("A square moves.")
    (root / "texts").mkdir()
    for index in range(3):
        (root / "texts" / f"{index}.txt").write_text(f"The river is {index} miles long. " * 20)
    return root, run("train_on_own_files", root / "videos", root / "texts", root / "out", "smoke")


def test_every_example_is_under_forty_lines_and_run_below():
    files = sorted(EXAMPLES.glob("*.py"))
    assert len(files) == 6
    tested = Path(__file__).read_text()
    for file in files:
        assert len(file.read_text().splitlines()) < 40, file
        assert f'"{file.stem}"' in tested, file


def test_attention_over_eight_devices():
    shape, _ = run("attention_on_eight_devices").splitlines()
    assert re.findall(r"\d+", shape) == ["1", "128", "4", "32", "8"]  # of the result; devices


def test_packing_changes_no_loss():
    packed, padded = (line.split() for line in run("pack_and_check_the_loss").splitlines()[:2])
    assert (packed[0], padded[0]) == ("1", "3")


def test_training_on_ones_own_files(trained):
    root, printed = trained
    assert any(line.startswith("clip") for line in printed.splitlines())  # the file that was asked about
    assert (root / "out/train/models/256/model.safetensors").exists()


def test_loading_and_completing(trained):
    printed = run("load_and_complete", trained[0] / "out/train/models/256")
    assert re.findall(r"\d+", printed.splitlines()[-1]) == ["2", "16", "16"]


def test_a_preset_of_ones_own(trained):
    printed = run("own_preset", trained[0] / "out/examples", trained[0] / "own")
    assert printed.strip() == str(trained[0] / "own/models/longer")


def test_measuring_needles(trained):
    folder = trained[0] / "out"
    text = trained[0] / "texts/0.txt"
    printed = run("measure_needles", folder / "train/models/256", text, trained[0] / "needles")
    assert {"128", "256"} <= set(re.findall(r"\d+", printed))
