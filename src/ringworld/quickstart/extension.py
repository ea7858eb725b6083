"""The context of a kept model extended, as LWM extends LLaMA-2, in minutes."""

from pathlib import Path

from ringworld.api.machine import on_this_machine
from ringworld.api.prepare import prepare
from ringworld.api.train import evaluation_folder, train
from ringworld.core.results import Evaluation
from ringworld.evaluation.runner import read_evaluation
from ringworld.quickstart.config import ExtensionConfig
from ringworld.quickstart.needle_documents import write_needle_documents

KEPT_MODEL = Path(__file__).with_name("needles-1k")
"""The end of the stage of 1K tokens of the preset `needles`, made by

    ringworld quickstart --preset needles --out runs/needles
    ringworld convert runs/needles/train/models/1K --out needles-1k --dtype bfloat16
"""


def extend(extension: ExtensionConfig, *, out: Path, devices: int | None) -> tuple[Evaluation, ...]:
    """Do what is not done yet of an extension in `out`; return what was measured before it and after.

    Raises:
        InputError: `out` holds another one.
    """
    run = on_this_machine(extension.run, devices=devices)
    texts = write_needle_documents(out / "toy", extension.documents)
    prepare(run, texts=[texts], tokenizer=KEPT_MODEL, out=out / "examples")
    trained = out / "train"
    train(run, data=out / "examples", init=KEPT_MODEL, out=trained, devices=devices)
    stages = run.training.stages
    return (
        read_evaluation(evaluation_folder(trained, stages[0].name, "before")),
        *(read_evaluation(evaluation_folder(trained, stage.name, "after")) for stage in stages),
    )
