"""Runs beside each other, however far they are and whatever else stands in their folders."""

import json
import re

import pytest

import ringworld as rw
from ringworld.core.config import to_json
from ringworld.core.errors import InputError
from ringworld.core.origin import Origin, write_origin
from ringworld.core.results import Evaluation, Result
from ringworld.report.plots import svg
from ringworld.report.runs import read_runs


def row(step, *, stage="4K", loss=2.0, tokens=100, seconds=0.5, mfu=None):
    counted = {
        "tokens": tokens,
        "tokens_per_second": tokens / seconds,
        "skipped_steps": step // 10,
        "mfu": mfu,
    }
    return {"step": step, "steps": 1, "seconds": seconds, "stage": stage, "loss": loss} | counted


def write_run(folder, rows, *, cut=""):
    stages = [{"steps": 20}, {"steps": 10}]
    write_origin(folder, Origin(kind="run", configuration={"training": {"stages": stages}}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows) + cut)


def write_evaluation(folder, when, stage, results):
    path = folder / "evaluation" / f"{when.replace(' ', '-')}-{stage}" / "evaluation.json"
    path.parent.mkdir(parents=True)
    evaluation = Evaluation(label={"when": when, "stage": stage}, results=results)
    path.write_text(json.dumps({"asked": [], "evaluation": to_json(evaluation)}))


def held_out(value, **where):
    cell = {"context_tokens": 64, **where}
    return Result(task="held_out", metric="text_loss", cell=cell, value=value, count=9)


def needle(value, depth):
    cell = {"needles": 1, "asked": 1, "context_tokens": 64, "depth_percent": depth}
    return Result(task="needles", metric="found", cell=cell, value=value, count=2)


@pytest.fixture
def folders(tmp_path):
    whole = tmp_path / "quickstart" / "train"
    whole.mkdir(parents=True)
    first = [row(step, stage="4K", loss=5.0, mfu=0.9) for step in range(1, 21)]
    losses = {step: 3.0 if step < 30 else 1.0 for step in range(21, 31)}
    second = [row(step, stage="8K", loss=loss, tokens=200, mfu=0.3) for step, loss in losses.items()]
    second[-1] |= {"mfu": 0.6}
    write_run(whole, [*first, *second])
    write_evaluation(whole, "before", "4K", (held_out(9.0),))
    write_evaluation(whole, "at 25", "8K", (held_out(3.0), needle(0.0, 0.0)))
    write_evaluation(whole, "after", "8K", (held_out(2.5), held_out(7.0, kind="text"), needle(0.5, 0.0)))
    write_evaluation(whole, "after", "4K", (held_out(4.0), needle(0.25, 0.0), needle(0.25, 50.0)))
    killed = tmp_path / "killed"
    killed.mkdir()
    write_run(killed, [row(1) | {"loss": None}, row(2)], cut='{"step": 3, "lo')
    for when, loss in (("at 9", 8.0), ("at 10", 7.0), ("before", 9.0)):
        write_evaluation(killed, when, "4K", (held_out(loss),))
    (killed / "evaluation" / "after-4K").mkdir(parents=True)
    (killed / "evaluation" / "after-4K" / "evaluation.json").write_text("{}")
    begun = tmp_path / "begun"
    begun.mkdir()
    write_origin(begun, Origin(kind="run"))
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "metrics.jsonl").write_text("not\njson\n")
    return whole.parent, killed, begun, foreign, tmp_path / "missing"


def test_every_run_is_summed_up_and_what_is_none_is_named(folders):
    report = read_runs(folders)
    whole, killed, begun = report.runs
    assert whole.name.endswith("quickstart/train")
    assert (whole.steps, whole.planned_steps, whole.stage, whole.tokens) == (30, 30, "8K", 4000)
    assert (whole.loss, whole.seconds, whole.tokens_per_second) == (1.0, 15.0, 400.0)
    assert (whole.held_out, whole.needles, whole.skipped_steps) == ({"text": 2.5}, 0.5, 3)
    assert whole.mfu == pytest.approx(0.33) and killed.mfu is None
    assert (killed.steps, killed.planned_steps, killed.loss, killed.held_out) == (2, 30, 2.0, {"text": 7.0})
    assert (begun.steps, begun.planned_steps, begun.loss) == (0, None, None)
    assert len(report.problems) == 3
    for name, problem in zip(("foreign", "missing", "killed"), report.problems):
        assert name in problem
    heads, *lines = report.lines()
    assert lines[0].split()[1:] == "8K 30 of 30 4,000 1.000 2.500 - 50% 3 400 33% 0.00".split()
    assert {len(re.split(r" {2,}", line)) for line in (heads, *lines[:3])} == {12}


def test_the_figure_has_a_line_for_each_run_that_has_rows(folders):
    figure = read_runs(folders).figure()
    assert [len(axes.lines) for axes in figure.axes] == [2, 2]
    words = re.findall(r"<text[^>]*>([^<]*)</text>", svg(figure, name="runs"))
    assert any(word.endswith("quickstart/train") for word in words)
    assert figure.axes[0].dataLim.x1 == pytest.approx(0.004)


def test_a_line_that_is_no_json_is_named_and_the_others_are_still_shown(folders):
    file = folders[1] / "metrics.jsonl"
    file.write_text("broken\n" + file.read_text())
    report = read_runs(folders[:2])
    assert [one.steps for one in report.runs] == [30, 0]
    assert str(file) in report.problems[0]


def test_a_picture_is_written_and_no_runs_at_all_are_an_error(folders, tmp_path):
    rw.runs(tmp_path, out=tmp_path / "runs.png")
    assert (tmp_path / "runs.png").read_bytes().startswith(b"\x89PNG")
    for none in (folders[3:], ()):
        with pytest.raises(InputError) as refused:
            rw.runs(none)
        assert refused.value.field == "folders"
    with pytest.raises(InputError) as refused:
        rw.runs(folders, out=tmp_path)
    assert refused.value.field == "out"
