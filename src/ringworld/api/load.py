"""`ringworld.load`: a model folder on this machine's devices."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from ringworld.api.machine import PathArgument, begin_process, ring_of
from ringworld.artifacts.model_folder import ModelFolder
from ringworld.core.config import from_json, to_json
from ringworld.core.errors import not_a_choice
from ringworld.core.files import fitted
from ringworld.core.mesh_config import MeshConfig
from ringworld.inference.config import GenerationLimits, SamplingDefaults, WatchingConfig
from ringworld.inference.prompts import Prompts
from ringworld.inference.world import World
from ringworld.interop.hf_folder import GENERATION_FILE
from ringworld.model.config import Execution, WeightType, check_mesh
from ringworld.model.forward import Forward
from ringworld.text.templates import ChatTemplate
from ringworld.text.training_template import learned_template


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelDefaults:
    """What a model folder keeps for those who load it, besides what other libraries read."""

    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)
    watching: WatchingConfig = field(default_factory=WatchingConfig)
    execution: Execution = field(default_factory=Execution)

    @staticmethod
    def of(generation: Mapping[str, Any], *, folder: Path) -> "ModelDefaults":
        """Read what a model folder keeps, by any version; what it lacks is as in any model.

        Raises:
            InputError: a value has another type or is out of range.
        """
        known = fitted(to_json(ModelDefaults()), generation)
        return from_json(ModelDefaults, known, where=folder / GENERATION_FILE)


def load(
    folder: PathArgument,
    *,
    adapter: PathArgument | None = None,
    devices: int | None = None,
    execution: Execution | None = None,
    weights: WeightType | None = None,
    context_tokens: int | None = None,
) -> World:
    """Return the model of a folder with its tokenizers, ready to complete, answer, draw and score.

    Args:
        folder: that `train` wrote, or that holds a LLaMA in Hugging Face's format; or an adapter folder,
            which names its model.
        adapter: folder of a LoRA adapter that is added to the model, written by `train` or by peft.
        devices: of the ring over which it is cut: by default one CPU, or all accelerators; more CPU devices
            are simulated.
        execution: how it is computed; by default as it was trained.
        weights: how its weights are kept: `float32`, `bfloat16`, or `int8`, which rounds each output channel
            of a matrix to 255 steps; by default in the type in which it is computed.
        context_tokens: longest prompt with what follows it; by default the context that it was trained on.

    Raises:
        InputError: it is no model folder, damaged, too large for the devices, or there is no such type; or
            the adapter is of another model.
    """
    begin_process(devices=devices)
    return load_opened(
        ModelFolder.open(Path(folder), adapter=None if adapter is None else Path(adapter)),
        devices=devices,
        execution=execution,
        weights=weights,
        context_tokens=context_tokens,
    )


def load_opened(
    found: ModelFolder,
    *,
    devices: int | None,
    execution: Execution | None = None,
    weights: WeightType | None = None,
    context_tokens: int | None = None,
) -> World:
    """Return the model of a folder that is open; otherwise as `load`."""
    if weights is not None and weights not in (types := get_args(WeightType)):
        raise not_a_choice("weights", str(weights), choices=types)
    mesh = ring_of(devices)
    defaults = ModelDefaults.of(found.generation, folder=found.path)
    execution = execution or defaults.execution
    check_mesh(found.architecture, execution.attention, MeshConfig(**mesh.shape))
    longest = found.context_tokens if context_tokens is None else context_tokens
    return World.of(
        found.read_generation_weights(mesh, compute=execution.compute, weights=weights),
        forward=Forward.of(found.architecture, execution),
        prompts=Prompts(
            found.tokenizers.text_tokenizer,
            vocabulary=found.vocabulary,
            frame_tokenizer=found.tokenizers.frame_tokenizer,
            template=_template_of(found),
        ),
        mesh=mesh,
        limits=GenerationLimits(max_context_tokens=longest),
        sampling=defaults.sampling,
        watching=defaults.watching,
        ends=found.ends,
    )


def _template_of(found: ModelFolder) -> ChatTemplate | None:
    """Return the chat template that a model was trained with; None where it is LWM's."""
    words = found.tokenizers.text_tokenizer
    if (learned := learned_template(words, vocabulary=found.vocabulary)) is not None:
        return learned
    if found.configuration is not None or "chat_template" not in words.settings:
        return None
    return ChatTemplate.of(words, vocabulary=found.vocabulary)
