"""What a preset returns, and how one is found by its name."""

import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from ringworld.core.config import parts
from ringworld.core.errors import InputError, not_a_choice
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.ranges import check_range
from ringworld.data.config import PrepareConfig
from ringworld.evaluation.config import EvaluationConfig
from ringworld.inference.config import SamplingDefaults
from ringworld.model.config import Architecture, Execution
from ringworld.text.vocabulary import Vocabulary
from ringworld.training.config import TrainingConfig, validate
from ringworld.vision.config import FrameTokenizerConfig, FrameTrainingConfig

Preset = Callable[[], "RunConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Everything that decides a run, from files to a trained model."""

    frame_tokenizer: FrameTokenizerConfig | None
    """Shape of the frame tokenizer; None for a model of text alone."""
    frame_training: FrameTrainingConfig | None
    """How it is trained."""
    frame_training_frames: int = 4096
    """Most frames that are kept in memory to train it on."""
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    """How files become examples."""
    model: Architecture
    """Shape of the world model; `text_vocab` is also the size asked of the text tokenizer."""
    execution: Execution = field(default_factory=Execution)
    """How it is computed."""
    training: TrainingConfig
    """Stages and optimizer."""
    evaluation: EvaluationConfig
    """What is measured before and after each stage, and within."""
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)
    """How text, images and videos are drawn where a caller does not say."""

    def __post_init__(self) -> None:
        """Refuse parts that do not fit together."""
        check_range(self, "frame_training_frames", least=1)
        validate(self.training, self.model, self.execution)
        self.evaluation.of_a_stage()
        if (self.frame_tokenizer is None) != (self.frame_training is None):
            problem = "frame_tokenizer and frame_training describe one frame tokenizer: give both, or neither"
            raise InputError(problem, field="frame_training")
        needed = self.vocabulary.vision_size
        if self.model.vision_vocab < needed:
            raise InputError(
                f"model.vision_vocab is {self.model.vision_vocab}, but codes and their ends need {needed}",
                field="model.vision_vocab",
                value=self.model.vision_vocab,
                remedy="raise vision_vocab or shrink the codebook",
            )

    @property
    def vocabulary(self) -> Vocabulary:
        """The one id space of this run."""
        return Vocabulary(
            text_size=self.model.text_vocab,
            codes=self.frame_tokenizer.codebook_size if self.frame_tokenizer else 0,
            codes_per_frame=self.frame_tokenizer.codes_per_frame if self.frame_tokenizer else 0,
        )

    @property
    def devices(self) -> int:
        """Devices of the stage that has most."""
        return max(stage.mesh.devices for stage in self.training.stages)

    def with_stages(self, names: str | Sequence[str]) -> "RunConfig":
        """Return the same run with the stages of these names alone, in its order; without names, with all.

        Raises:
            InputError: there is no stage of a name.
        """
        there = {stage.name: stage for stage in self.training.stages}
        names = (names,) if isinstance(names, str) else names
        for name in names:
            if name not in there:
                raise not_a_choice("stage", name, choices=there)
        chosen = tuple(stage for name, stage in there.items() if not names or name in names)
        return replace(self, training=replace(self.training, stages=chosen))

    def on_devices(self, count: int) -> "RunConfig":
        """Return the same run with the ring as large as `count` devices allow, the other axes kept.

        Raises:
            InputError: the other axes do not divide `count`, or the model or a context does not divide.
        """

        def on(mesh: MeshConfig) -> MeshConfig:
            others = mesh.devices // mesh.ring
            if count < 1 or count % others:
                raise InputError(
                    f"{count} devices do not make whole rings beside the other axes of a mesh, whose product "
                    f"is {others}",
                    field="devices",
                    value=count,
                    remedy=f"use a multiple of {others}, or another mesh",
                )
            return replace(mesh, ring=count // others)

        stages = tuple(replace(stage, mesh=on(stage.mesh)) for stage in self.training.stages)
        return replace(self, training=replace(self.training, stages=stages))


def load_preset(name: str) -> RunConfig:
    """Return the run of a preset: one of ringworld's by its name, or `module:function` of anyone's.

    A module is looked for in the current folder too.

    Raises:
        InputError: there is none, and the message names the nearest; or it gives a part of the run a field
            that this has not, of which the nearest is named, too; or it returns something else.
    """
    module_name, function_name = name.split(":", 1) if ":" in name else ("ringworld.presets", name)
    if not all(part.isidentifier() for part in (*module_name.split("."), function_name)):
        problem = f"{name!r} is neither the name of a preset nor MODULE:FUNCTION"
        raise InputError(problem, field="preset", value=name)
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        return _run_of(module_name, function_name)
    except TypeError as error:
        unknown = _unknown_field(error)
        if unknown is None:
            raise
        raise unknown from error
    finally:
        sys.path.remove(here)


def _run_of(module_name: str, function_name: str) -> RunConfig:
    """Import a module, and return the run of one of its functions."""
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        problem = f"there is no module {error.name} for the preset {module_name}:{function_name}"
        raise InputError(problem, field="preset", value=module_name) from None
    preset = getattr(module, function_name, None)
    if not callable(preset):
        raise not_a_choice("preset", function_name, choices=presets(module_name))
    try:
        inspect.signature(preset).bind()
    except (TypeError, ValueError) as error:
        problem = f"the preset {function_name} needs arguments ({error})"
        raise InputError(problem, field="preset", value=function_name) from None
    run = preset()
    if not isinstance(run, RunConfig):
        problem = (
            f"the preset {function_name} returns an object of type {type(run).__name__}, not a RunConfig"
        )
        raise InputError(problem, field="preset", value=function_name)
    return run


def _unknown_field(error: TypeError) -> InputError | None:
    """Return what a part of a run is given that has no such field; None for any other error.

    Python says so in words alone: "Stage.__init__() got an unexpected keyword argument 'learning_rat'".
    """
    said = re.match(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    fields = said and parts(RunConfig).get(said[1])
    if not said or not fields:
        return None
    refusal = not_a_choice(f"field of {said[1]}", said[2], choices=fields)
    refusal.field = f"{said[1]}.{said[2]}"
    return refusal


def catalog() -> str:
    """Return a paragraph for each of ringworld's presets: what it is, on which hardware, at what cost."""
    return "\n".join(f"  {name}: {_in_short(preset)}" for name, preset in presets().items())


def presets(module_name: str = "ringworld.presets") -> dict[str, Preset]:
    """Return the functions of a module and its package by name; by default ringworld's presets."""
    package = module_name.partition(".")[0]
    module = importlib.import_module(module_name)
    return {
        name: value
        for name, value in sorted(vars(module).items())
        if not name.startswith("_")
        and inspect.isfunction(value)
        and value.__module__.partition(".")[0] == package
    }


def _in_short(function: Preset) -> str:
    paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    hardware = [one for one in paragraphs if one.startswith(("Hardware:", "Cost:", "Never run"))]
    return "\n".join([paragraphs[0], *hardware]).replace("\n", "\n    ")
