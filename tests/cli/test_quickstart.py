"""The whole path as a user runs it: real processes, real files, bad ones among them, and a kill."""

import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ringworld.cli.main import INPUT_ERROR, main
from ringworld.core.files import LOCK_FILE, read_jsonl
from ringworld.core.origin import ORIGIN_FILE
from ringworld.data.store import ExampleStore
from ringworld.report import markup
from ringworld.training.metrics import TIMED
from ringworld.vision.write_media import write_video
from tests.report.sample_run import moving_square


def start(command: str, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        (sys.executable, "-m", "ringworld", command, *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def quickstart(out: Path, *inputs: str) -> subprocess.Popen[str]:
    return start("quickstart", "--preset", "smoke", "--out", str(out), *inputs)


def finish(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=540)
    assert process.returncode == 0, errors
    return output


def losses(out: Path) -> list[dict]:
    rows = read_jsonl(out / "train" / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name not in TIMED} for row in rows]


def measured(out: Path) -> dict:
    metrics = json.loads((out / "metrics.json").read_text())
    return {name: metrics[name] for name in ("losses", "evaluations", "frame_tokenizer")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("quickstart")


@pytest.fixture(scope="module")
def inputs(folder) -> tuple[str, ...]:
    """Files of a user, good and bad, and one of a name that another folder has too."""
    videos, more, texts = folder / "videos", folder / "more", folder / "texts"
    write_video(more / "square0.mp4", moving_square(color=(40, 60, 200)), frames_per_second=4)
    for index in range(3):
        path = videos / f"square{index}.mp4"
        write_video(path, moving_square(color=(200, 60 * index, 40)), frames_per_second=4)
    # Held out and broken beside: a caption that no context holds, and a sidecar that is no JSON.
    for name, beside in (("wordy", json.dumps({"caption": "A red square. " * 300})), ("torn", "{")):
        path = videos / "held_out" / f"{name}.mp4"
        write_video(path, moving_square(color=(40, 200, 40)), frames_per_second=4)
        path.with_suffix(".json").write_text(beside)
    path = videos / "cut.mp4"
    path.write_bytes((videos / "square0.mp4").read_bytes()[:700])
    (videos / "empty.mp4").touch()
    texts.mkdir()
    (texts / "good.txt").write_text(
        "A short text of the user. It holds two sentences.\n", encoding="utf-8-sig"
    )
    (texts / "latin.txt").write_bytes("caf\u00e9 au lait".encode("latin-1"))
    return "--videos", str(videos), str(more), "--texts", str(texts)


@pytest.fixture(scope="module")
def whole(folder, inputs) -> Path:
    """A run that nothing disturbed."""
    out = folder / "whole"
    printed = finish(quickstart(out, *inputs))
    assert printed.splitlines()[-1] == str(out / "report.html")
    return out


def test_bad_files_are_listed_and_the_rest_goes_on(whole):
    metrics = json.loads((whole / "metrics.json").read_text())
    assert {one["name"] for one in metrics["quarantined"]} == {
        "cut.mp4",
        "empty.mp4",
        "held_out/torn.mp4",
        "latin.txt",
    }
    used = {one["name"]: one["examples"] for one in metrics["inputs"]}
    assert used["square0.mp4"] > 0
    assert used["good.txt"] > 0
    report = (whole / "report.html").read_text()
    assert all(name in report for name in ("cut.mp4", "empty.mp4", "latin.txt"))


def test_files_of_one_name_are_counted_once(whole):
    metrics = json.loads((whole / "metrics.json").read_text())
    files = {one["name"]: one["files"] for one in metrics["inputs"]}
    assert (files["square0.mp4"], files["square1.mp4"]) == (2, 1)
    examples = ExampleStore(whole / "examples")
    assert sum(one["examples"] for one in metrics["inputs"]) == len(examples)
    assert sum(one["tokens"] for one in metrics["inputs"]) == examples.column("tokens").sum()


def test_nothing_is_left_out_in_silence(whole):
    """Three frames of 17 codes and a caption exceed 64 tokens, and a caption of 300 sentences exceeds all."""
    metrics, report = json.loads((whole / "metrics.json").read_text()), (whole / "report.html").read_text()
    prepared = json.loads((whole / "examples" / "report.json").read_text())
    assert metrics["questions_left_out"] == prepared["questions_too_long"] > 1
    assert f"{metrics['questions_left_out']} questions are left out" in report
    first, last = metrics["stages"][0], metrics["stages"][-1]
    assert first["left_out"]["caption_video"] > 0
    assert "caption_video" not in last["left_out"]
    results = metrics["evaluations"][-1]["results"]
    held_out = {one["cell"]["kind"]: one["count"] for one in results if one["metric"] == "too_long"}
    assert held_out["caption_video"] == 1
    assert "Examples longer than a context" in report


def test_the_report_says_how_fast_each_stage_was(whole):
    metrics = json.loads((whole / "metrics.json").read_text())
    rows = read_jsonl(whole / "train" / "metrics.jsonl")
    for stage in metrics["stages"]:
        of_stage = [row for row in rows if row["stage"] == stage["name"]]
        assert stage["steps"] == 6
        assert stage["seconds"] == pytest.approx(sum(row["seconds"] for row in of_stage))
        rates = [row["model_flops_per_second"] for row in of_stage]
        assert min(rates) <= stage["model_flops_per_second"] <= max(rates)
        assert markup.rate(stage["model_flops_per_second"]) in (whole / "report.html").read_text()


def test_every_part_left_its_output(whole):
    metrics = json.loads((whole / "metrics.json").read_text())
    assert len(metrics["stages"]) == 2
    assert [" ".join(one["label"].values()) for one in metrics["evaluations"]] == [
        "before 64",
        "after 64",
        "after 256",
    ]
    for one in metrics["evaluations"]:
        assert {result["task"] for result in one["results"]} == {"needles", "held_out"}
    assert metrics["videos"]
    assert metrics["images"]
    assert metrics["questions"]
    assert all((whole / one["generated"]).stat().st_size for one in metrics["videos"])


def test_a_run_killed_in_training_ends_with_equal_metrics(whole, inputs, folder):
    out = folder / "killed"
    # What no kill in training changes is copied, what was measured before it too.
    shutil.copytree(whole, out, ignore=shutil.ignore_patterns("train", "report.html", "metrics.json"))
    for name in ("before-64", "after-64"):
        shutil.copytree(*(path / "train" / "evaluation" / name for path in (whole, out)))
    shutil.copy(*(path / "train" / ORIGIN_FILE for path in (whole, out)))
    process = quickstart(out, *inputs)
    while len(read_jsonl(out / "train" / "metrics.jsonl")) < 8:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finish(quickstart(out, *inputs))
    assert losses(out) == losses(whole)
    assert measured(out) == measured(whole)


def test_a_finished_run_only_writes_its_report_again(whole, inputs):
    (whole / "report.html").unlink()
    stamps = {path: path.stat().st_mtime_ns for path in (whole / "samples").iterdir()}
    main(("quickstart", "--preset", "smoke", "--out", str(whole), *inputs))
    assert (whole / "report.html").exists()
    assert stamps == {path: path.stat().st_mtime_ns for path in (whole / "samples").iterdir()}


def test_a_model_is_one_folder_that_is_the_last_stages(whole):
    last = whole / "train" / "models" / "256"
    for path in last.rglob("*"):
        if path.is_file():
            assert (whole / "model" / path.relative_to(last)).read_bytes() == path.read_bytes()
    origin = json.loads((whole / "model" / "origin.json").read_text())
    assert (origin["kind"], origin["identity"]["stage"], origin["identity"]["step"]) == ("model", "256", 12)
    assert origin["parents"]["data"]["path"] == str(whole / "examples")
    assert [path.name for path in (whole / "train" / "models").iterdir() if path.name.isdigit()]


def test_every_folder_has_one_origin_and_no_other_identity(whole):
    kinds = {
        ".": "quickstart",
        "toy": "toy world",
        "tokenizer": "tokenizer",
        "examples": "examples",
        "train": "run",
        "model": "model",
        "train/evaluation/after-256": "evaluation",
    }
    for folder, kind in kinds.items():
        assert json.loads((whole / folder / "origin.json").read_text())["kind"] == kind
    names = {path.name for path in whole.rglob("*.json")}
    assert not names & {"run.json", "inputs.json", "training.json", "prepared_from.json", "dataset.json"}


@pytest.mark.parametrize(
    ("kind", "options", "made"),
    [
        ("video", ("--frames", "2", "--guidance-scale", "2.0"), "video.mp4"),
        ("answer", ("--max-new-tokens", "4"), "output.json"),
    ],
)
def test_a_trained_model_generates(kind, options, made, whole, inputs, tmp_path):
    about = ("--about", str(Path(inputs[1]) / "square0.mp4")) if kind == "answer" else ()
    prompt = ("--kind", kind, "--prompt", "A red circle moves right.")
    typed = (*prompt, "--model", str(whole / "model"), "--out", str(tmp_path), *options, *about)
    finish(start("generate", *typed))
    assert (tmp_path / made).stat().st_size
    origin = json.loads((tmp_path / "origin.json").read_text())
    assert shlex.split(origin["command"]) == ["ringworld", "generate", *typed]
    assert origin["parents"]["model"]["path"] == str(whole / "model")
    defaults = json.loads((whole / "model" / "generation_config.json").read_text())["ringworld"]["sampling"]
    used = json.loads((tmp_path / "output.json").read_text())
    expected = defaults[kind] | ({"guidance_scale": 2.0} if kind == "video" else {})
    assert {name: used[name] for name in expected} == expected
    assert used["about"] == (about[1] if about else None)
    assert used["prompt"] == "A red circle moves right."


def test_a_run_begins_from_the_model_of_another(whole, tmp_path):
    out = tmp_path / "begun"
    folders = ("--data", str(whole / "examples"), "--out", str(out), "--init", str(whole / "model"))
    # A change that leaves the programs as they are, so that they are not compiled again.
    changes = ("--training.stages.1.mixture.ratios.text", "0.25")
    typed = ("--preset", "smoke", *folders, "--evaluate", "never", *changes)
    printed = finish(start("train", *typed))
    assert printed.splitlines()[-1] == str(out / "models" / "256")
    # Trained weights know more than those that are drawn, which begin near the logarithm of 418 ids.
    begun, drawn = (read_jsonl(path / "metrics.jsonl")[0]["loss"] for path in (out, whole / "train"))
    assert begun < drawn - 0.2
    origin = json.loads((out / "origin.json").read_text())
    assert origin["configuration"]["training"]["stages"][1]["mixture"]["ratios"]["text"] == 0.25
    weights = json.loads((whole / "model" / "origin.json").read_text())["identity"]["weights"]
    assert origin["parents"]["init"]["fingerprint"] == origin["identity"]["init"] == weights


def refused(capsys: pytest.CaptureFixture[str], *typed: str) -> str:
    """Return what a command says that ends with the code of an input error."""
    with pytest.raises(SystemExit) as ended:
        main(typed)
    assert ended.value.code == INPUT_ERROR
    return capsys.readouterr().err


def test_other_files_are_not_prepared_into_a_folder_and_nothing_is_touched(whole, inputs, capsys):
    examples = whole / "examples"
    files = (path for path in examples.rglob("*") if path.is_file() and path.name != LOCK_FILE)
    before = {path: path.read_bytes() for path in files}
    folders = ("--videos", inputs[1], "--tokenizer", str(whole / "tokenizer"), "--out", str(examples))
    message = refused(capsys, "prepare", "--preset", "smoke", *folders)
    assert str(examples) in message and "videos" in message
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("name", ["train", "examples"])
def test_a_folder_that_is_no_model_is_named_with_the_models_that_it_holds(name, whole, tmp_path, capsys):
    typed = ("--kind", "text", "--prompt", "a", "--model", str(whole / name), "--out", str(tmp_path))
    message = refused(capsys, "generate", *typed)
    assert str(whole / name) in message
    assert ("models/256" in message) == (name == "train")
