"""A run over two processes is the run of one: its losses, its files, and its stop."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import ringworld as rw
from ringworld.core.errors import InputError
from ringworld.core.files import read_jsonl
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.processes import COORDINATOR, COUNT, INDEX
from ringworld.core.steps import CHECKPOINTS_FOLDER, METRICS_FILE
from ringworld.model.lora_config import LoraConfig
from ringworld.training.config import OptimizerConfig
from tests.api import two_processes
from tests.core.test_roll_call import free_port
from tests.training.test_loss import ROUNDING

ROOT = Path(__file__).parents[2]
STEPS = {"ring": 4, "fsdp": 16}
RATE = 0.1
STAGES = tuple(
    replace(
        rw.presets.smoke().training.stages[-1],
        name=name,
        context_tokens=64,
        batch_sequences=8,
        steps=steps,
        learning_rate=RATE,
        moments="reset",
        mesh=MeshConfig(**{name: 8}),
    )
    for name, steps in STEPS.items()
)
LAST = sum(STEPS.values())
RUN = replace(
    rw.presets.smoke(),
    frame_tokenizer=None,
    frame_training=None,
    model=replace(rw.presets.smoke().model, layers=1, vision_vocab=0, text_vocab=280),
    training=replace(
        rw.presets.smoke().training,
        checkpoint_every_steps=3,
        stages=STAGES,
        # Far above all gradients: AdamW is then descent with momentum, and does not divide by small ones.
        optimizer=OptimizerConfig(epsilon=1.0),
    ),
)
# Weights are off by the rounding of gradients, which are clipped to 1, times the rates of all updates; so the
# losses, of 3 nats or more, are by that much over 3 times, and by their own rounding.
APART = ROUNDING * (1 + RATE * LAST / 3)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Examples, and the run of one process with eight devices."""
    root = tmp_path_factory.mktemp("processes")
    for index in range(6):
        (root / "texts").mkdir(exist_ok=True)
        (root / "texts" / f"{index}.txt").write_text(f"The river is {index} miles long. " * (8 + index))
    rw.train_tokenizer(RUN, texts=root / "texts", out=root / "tokenizer")
    rw.prepare(RUN, texts=root / "texts", tokenizer=root / "tokenizer", out=root / "examples")
    rw.train(RUN, data=root / "examples", out=root / "one", evaluate="never")
    return root


def rows(folder: Path) -> list[dict[str, Any]]:
    return read_jsonl(folder / METRICS_FILE)


def test_a_part_of_the_stages_begins_from_the_model_before_and_ends_as_the_whole_run(made: Path):
    data, init = made / "examples", made / "one" / "models" / "ring"
    rw.train(RUN, stages=["fsdp"], init=init, data=data, out=made / "part", evaluate="never")
    part, whole = rows(made / "part"), rows(made / "one")[STEPS["ring"] :]
    assert [row["step"] for row in part] == list(range(1, STEPS["fsdp"] + 1))
    np.testing.assert_allclose([row["loss"] for row in part], [row["loss"] for row in whole], rtol=APART)


def test_stages_that_are_not_there_or_begin_from_nothing_are_refused(made: Path, tmp_path: Path):
    three = replace(STAGES[1], name="last")
    run = replace(RUN, training=replace(RUN.training, stages=(*STAGES, three)))
    for stages, field in ((["rings"], "stage"), (["fsdp"], "init"), (["ring", "last"], "stages")):
        with pytest.raises(InputError) as refused:
            rw.train(run, stages=stages, data=made / "examples", out=tmp_path / "out")
        assert refused.value.field == field
    assert not (tmp_path / "out" / "origin.json").exists()


THIN = replace(STAGES[-1], steps=2, warmup_steps=0, learning_rate=1e-3)


@dataclass(frozen=True)
class Ended:
    """What became of two processes that did all of `two_processes`."""

    said: list[dict[str, Any]]
    stderr: list[str]
    stopped_after: int
    """The step to which the first run of both came."""


@pytest.fixture(scope="module")
def together(made: Path) -> Ended:
    """Two processes, one of which gets a signal in the second stage of their first run."""
    adapter = {"lora": LoraConfig(rank=2, base="int8"), "optimizer": OptimizerConfig()}
    thin = replace(RUN, training=replace(RUN.training, stages=(THIN,), **adapter))
    init = made / "one" / "models" / "fsdp"
    rw.train(thin, data=made / "examples", out=made / "thin", init=init, evaluate="never")
    folder, both = made / "two", start_both(made)
    while all(process.poll() is None for process in both) and len(rows(folder)) < STEPS["ring"] + 3:
        time.sleep(0.01)
    both[1].send_signal(signal.SIGTERM)
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    return Ended(
        said=[json.loads(out.splitlines()[-1]) for out, _ in said],
        stderr=[err for _, err in said],
        stopped_after=rows(folder)[-1]["step"],
    )


def start_both(root: Path) -> list[subprocess.Popen[str]]:
    """Start two processes of one program."""
    named = {COORDINATOR: f"127.0.0.1:{free_port()}", COUNT: "2"}
    named["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    return [
        subprocess.Popen(
            [sys.executable, "-m", two_processes.__name__, str(root)],
            cwd=root,
            env=os.environ | named | {INDEX: index},
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in ("0", "1")
    ]


def test_two_processes_train_as_one_over_stages_and_a_signal_to_either_stops_both(
    made: Path, together: Ended
):
    """One process resumes where they stopped, and ends as if it had been alone."""
    folder, at = made / "two", together.stopped_after
    assert [said["train"] for said in together.said] == [128 + signal.SIGTERM] * 2
    assert STEPS["ring"] + 3 <= at < LAST and (folder / CHECKPOINTS_FOLDER / str(at)).is_dir()
    writer, other = together.stderr
    assert "compiling" in writer and "compiling" not in other

    last = rw.train(RUN, data=made / "examples", out=folder, evaluate="never")
    assert json.loads((last / "config.json").read_text())["vocab_size"] == 280
    every, whole = rows(folder), rows(made / "one")
    assert [(row["step"], row["stage"]) for row in every] == [(row["step"], row["stage"]) for row in whole]
    losses = [[row["loss"] for row in of] for of in (every, whole)]
    np.testing.assert_allclose(*losses, rtol=APART)
    assert 3 < min(losses[1]) < losses[1][0] - 0.1


def test_two_processes_train_the_adapter_of_one(made: Path, together: Ended):
    losses = [[row["loss"] for row in rows(made / name)] for name in ("thin", "thin2")]
    np.testing.assert_allclose(*losses, rtol=2e-3)
    wanted, found = (
        load_file(made / name / "adapters/fsdp/adapter_model.safetensors") for name in ("thin", "thin2")
    )
    assert wanted.keys() == found.keys()
    # AdamW moves every number by the rate in its first steps, but for those whose gradients are rounding.
    moved = THIN.learning_rate * THIN.steps
    for name, values in wanted.items():
        assert np.abs(values - found[name]).mean() < 0.05 * moved


@pytest.mark.parametrize(
    ("failure", "path"),
    [
        (two_processes.a_batch_that_one_cannot_read, "shards/7"),
        (two_processes.a_disk_that_is_full_for_one, "full/checkpoints/2"),
        (two_processes.a_model_that_one_cannot_read, "model1"),
        (two_processes.a_layer_that_one_cannot_read, "layers1/model.safetensors"),
        (two_processes.a_checkpoint_that_one_cannot_read, "copy{}/3"),
    ],
)
def test_what_one_process_fails_with_is_raised_in_both_and_names_it(made, together, failure, path):
    for index, said in enumerate(together.said):
        message, of = said[failure.__name__]
        assert of == str(made / path.format(index))
        assert f"process {two_processes.FAILS}" in message


def test_where_one_process_cannot_read_the_newest_checkpoint_both_resume_from_the_one_before(made, together):
    assert [path.name for path in (made / "copy0-damaged").iterdir()] == ["4-0"]
