"""A tracker gets the numbers of rows, and cannot end a run. Its package is optional, and stood in for."""

import sys
from types import SimpleNamespace

import pytest

from ringworld.core.errors import InputError
from ringworld.core.tracker import check_tracker, tracking

ROW = {"step": 3, "stage": "4K", "loss": 1.5, "vision_loss": None, "drawn": {"a/b": 0.5}, "tokens": 7}
NUMBERS = {"step": 3.0, "loss": 1.5, "drawn/a/b": 0.5, "tokens": 7.0}


class Writer:
    """Stands for tensorboardX's."""

    def __init__(self, **options):
        self.options, self.scalars, self.closed = options, [], 0
        WRITERS.append(self)

    def add_scalar(self, name, value, step):
        if value == 7:
            raise ConnectionError("gone")
        self.scalars.append((name, value, step))

    def close(self):
        self.closed += 1


WRITERS: list[Writer] = []


class WandbRun:
    """Stands for a run of wandb."""

    def __init__(self, **options):
        self.options, self.rows, self.finished = options, [], 0
        WANDB_RUNS.append(self)

    def define_metric(self, name, step_metric):
        assert (name, step_metric) == ("*", "step")

    def log(self, numbers):
        self.rows.append(numbers)

    def finish(self):
        self.finished += 1


WANDB_RUNS: list[WandbRun] = []


@pytest.fixture
def packages(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", SimpleNamespace(SummaryWriter=Writer))
    settings = SimpleNamespace(Settings=dict, init=WandbRun)
    monkeypatch.setitem(sys.modules, "wandb", settings)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    WRITERS.clear()
    WANDB_RUNS.clear()


def test_tensorboard_gets_the_numbers_of_a_row_and_is_given_up_when_it_fails(packages, tmp_path, capsys):
    check_tracker("tensorboard")
    with tracking("tensorboard", folder=tmp_path, after_step=2, configuration={}) as tracker:
        tracker.log({name: value for name, value in ROW.items() if name != "tokens"})
        assert not capsys.readouterr().err
        tracker.log(ROW)
        tracker.log(ROW)
    (writer,) = WRITERS
    assert writer.options["purge_step"] == 3
    assert writer.scalars == [("step", 3.0, 3), ("loss", 1.5, 3), ("drawn/a/b", 0.5, 3)] * 2
    assert writer.closed == 0 and "gone" in capsys.readouterr().err


def test_weights_and_biases_get_them_as_one_run_that_is_sent_later(packages, tmp_path):
    check_tracker("wandb")
    for after_step in (0, 2):
        with tracking("wandb", folder=tmp_path, after_step=after_step, configuration={"seed": 1}) as tracker:
            tracker.log(ROW)
    before, after = WANDB_RUNS
    assert before.rows == after.rows == [NUMBERS]
    assert (before.finished, before.options["mode"], before.options["config"]) == (1, "offline", {"seed": 1})
    assert before.options["id"] == after.options["id"]


def test_one_that_cannot_be_opened_is_given_up(packages, tmp_path, capsys):
    (tmp_path / "wandb").write_text("a file where its folder would be")
    with tracking("wandb", folder=tmp_path, after_step=0, configuration={}) as tracker:
        tracker.log(ROW)
    assert not WANDB_RUNS and "wandb failed" in capsys.readouterr().err


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError) as refused:
        check_tracker("wandb")
    assert (refused.value.field, refused.value.value) == ("training.tracker", "wandb")
