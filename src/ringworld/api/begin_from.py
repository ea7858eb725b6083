"""What a run reads: the examples, and the model that it begins from."""

from dataclasses import replace
from pathlib import Path

from ringworld.api.machine import PathArgument
from ringworld.artifacts.adapter_folder import is_adapter
from ringworld.artifacts.examples_folder import ExamplesFolder
from ringworld.artifacts.model_folder import ModelFolder
from ringworld.artifacts.tokenizers import Tokenizers
from ringworld.core.config import to_json
from ringworld.core.errors import InputError
from ringworld.core.files import differences
from ringworld.presets.run import RunConfig


def opened(
    run: RunConfig, *, data: Path, init: PathArgument | None
) -> tuple[ExamplesFolder, ModelFolder | None]:
    """Return what a run reads.

    Raises:
        InputError: there are no such folders, or they do not fit the run.
    """
    examples = ExamplesFolder.open(data)
    examples.check(run.vocabulary)
    return examples, None if init is None else _checked_init(Path(init), run, examples.tokenizers)


def _checked_init(folder: Path, run: RunConfig, tokenizers: Tokenizers) -> ModelFolder:
    begun_from = ModelFolder.open(folder)
    if run.training.lora.rank:
        _check_adapts(begun_from, run, folder=folder)
    own = begun_from.architecture
    theirs = replace(own, rope=replace(own.rope, base=run.model.rope.base))  # stages set the base
    if theirs.vision_vocab == 0:
        theirs = replace(theirs, vision_vocab=run.model.vision_vocab)
    if theirs != run.model:
        differing = differences(to_json(run.model), to_json(theirs))
        raise InputError(
            f"the model in {folder} differs from the run's in {', '.join(differing)}",
            field="init",
            value=differing,
            path=folder,
            remedy="override these fields of the run's model, or begin from another folder",
        )
    if differing := begun_from.tokenizers.unlike(tokenizers):
        raise InputError(
            f"the ids of the model in {folder} mean something else: the data was prepared with another "
            f"{' and another '.join(differing)}",
            field="init",
            value=differing,
            path=folder,
            remedy="prepare the data with its tokenizers; to add frames to a model of text, take over "
            f"its text tokenizer when tokenizers are trained (text_tokenizer={folder})",
        )
    return begun_from


def _check_adapts(base: ModelFolder, run: RunConfig, *, folder: Path) -> None:
    """Refuse to train an adapter that could not say what it learned.

    Raises:
        InputError: the model is an adapter itself, lacks ids, or a stage has another RoPE base.
    """
    if is_adapter(folder):
        raise InputError(
            f"{folder} is an adapter, to which no other is trained",
            field="init",
            path=folder,
            remedy="merge it into its model with convert, and begin from that",
        )
    if base.architecture.vocab < run.model.vocab:
        raise InputError(
            f"the model in {folder} has {base.architecture.vocab} ids and the run {run.model.vocab}, but an "
            "adapter teaches no new ids",
            field="init",
            value=base.architecture.vocab,
            path=folder,
            remedy="train all weights (lora.rank=0)",
        )
    for stage in run.training.stages:
        if stage.rope_base != base.architecture.rope.base:
            raise InputError(
                f"stage {stage.name} has the RoPE base {stage.rope_base:g}, but an adapter keeps that of the "
                f"model in {folder}, {base.architecture.rope.base:g}",
                field=f"stage {stage.name}.rope_base",
                value=stage.rope_base,
                path=folder,
                remedy="give the stage the base of the model, or train all weights (lora.rank=0)",
            )
