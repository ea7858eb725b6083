"""The paper's text stages for other sizes of model and other machines; each stage has a mesh by one rule."""

from collections.abc import Sequence
from dataclasses import replace

from ringworld.core.errors import InputError, not_a_choice
from ringworld.core.mesh_config import MeshConfig
from ringworld.model.config import Architecture, Execution
from ringworld.model.lora_config import LoraConfig
from ringworld.model.sizes import LLAMA_2_7B, LLAMA_3_1_8B, LWM_SIZES
from ringworld.planning.machines import Machine, gpu_machine, tpu_slice
from ringworld.planning.memory import memory_needs
from ringworld.presets.lwm import TEXT_STAGES, text_recipe
from ringworld.presets.run import RunConfig
from ringworld.training.config import OptimizerConfig, Stage

MODELS = LWM_SIZES | {"7b": LLAMA_2_7B, "llama-3.1-8b": LLAMA_3_1_8B}
"""By the names of LWM's code; the paper's own begins from LLaMA-2, which has another epsilon."""
_PIECES = (1, 2, 4)
"""Of a batch; the longest stage has four sequences."""
_ROOM = 0.9
"""Of a chip's memory, what arithmetic may fill."""


def text_run(size: str, machine: str, *, stages: Sequence[Stage] = TEXT_STAGES) -> RunConfig:
    """Return the text stages of the paper for a size of model, each on a mesh of all chips of a machine.

    A preset of your own for any of them is a function without arguments that returns this.

    | | |
    |---|---|
    | `fsdp` | as many sequences as are computed at one time, so that those of short contexts are not cut |
    | `ring` | the chips that are left share each sequence |
    | `tensor` | 1, or as large as needed for the others to divide the width of the model |
    | `accumulation_steps` | the fewest of 1, 2 and 4 with which every stage fits by arithmetic |

    Example:
        256 chips, 7b: at 32K `fsdp=128 ring=2`, at 128K `fsdp=32 ring=8`, at 1M `fsdp=4 ring=64`.

    Args:
        size: one of `MODELS`.
        machine: a TPU slice such as `v5p:4x8x8`, or GPUs such as `64xH100`.
        stages: without their meshes.

    Raises:
        InputError: there is no such size or machine, or a stage does not fit it.
    """
    if size not in MODELS:
        raise not_a_choice("size", size, choices=MODELS)
    model, on = MODELS[size], tpu_slice(machine) if ":" in machine else gpu_machine(machine)
    if on.chips & (on.chips - 1):
        raise InputError(
            f"{machine} has {on.chips} devices, which is no power of two, as every stage is",
            field="machine",
            value=machine,
            remedy="take a power of two of them, or write the meshes of the stages yourself",
        )
    for pieces in _PIECES:
        run = text_recipe(model, [_on(on.chips, stage, model, pieces) for stage in stages])
        if all(_fits(stage, model, run.execution, on) for stage in run.training.stages):
            return run
    raise InputError(
        f"the text stages of {size} do not fit {machine}",
        field="machine",
        value=machine,
        remedy="take more chips, a smaller model or fewer stages",
    )


def _on(chips: int, stage: Stage, model: Architecture, pieces: int) -> Stage:
    tensor = 1
    while tensor < chips and model.embed % (chips // tensor):
        tensor *= 2
    fsdp = min(chips // tensor, stage.batch_sequences // pieces)
    mesh = MeshConfig(fsdp=fsdp, ring=chips // (tensor * fsdp), tensor=tensor)
    return replace(stage, mesh=mesh, accumulation_steps=pieces)


def _fits(stage: Stage, model: Architecture, execution: Execution, machine: Machine) -> bool:
    needs = memory_needs(
        stage, architecture=model, execution=execution, optimizer=OptimizerConfig(), lora=LoraConfig()
    )
    return needs.total <= _ROOM * machine.chip.hbm_bytes


def lwm_text_200m() -> RunConfig:
    """The text stages for the 200m of LWM's code, to try the whole recipe.

    Hardware: 8 GPUs of 80 GB (8xH100).
    Cost: at least 1.4 days, by `ringworld plan`.
    Never run by us.
    """
    return text_run("200m", "8xH100")


def lwm_text_1b() -> RunConfig:
    """The text stages for the 1b of LWM's code.

    Hardware: 8 GPUs of 80 GB (8xH100).
    Cost: at least 4.5 days, by `ringworld plan`.
    Never run by us.
    """
    return text_run("1b", "8xH100")


def lwm_text_3b() -> RunConfig:
    """The text stages for the 3b of LWM's code.

    Hardware: 8 GPUs of 141 GB (8xH200).
    Cost: at least 8.8 days, by `ringworld plan`.
    Never run by us.
    """
    return text_run("3b", "8xH200")


def lwm_text_7b_v5p() -> RunConfig:
    """The text stages of the paper for LLaMA-2 7B, on rings of up to 64 chips in place of tensor parallelism.

    Hardware: 256 TPU v5p chips (v5p:4x8x8); the same meshes fit 256 TPU v4 chips.
    Cost: at least 1.0 days, by `ringworld plan`.
    Never run by us: the project had no TPU.
    """
    return text_run("7b", "v5p:4x8x8")


def lwm_text_7b_v6e() -> RunConfig:
    """The text stages of the paper for LLaMA-2 7B.

    Hardware: 256 TPU v6e chips (v6e:16x16).
    Cost: at least 0.5 days, by `ringworld plan`.
    Never run by us: the project had no TPU.
    """
    return text_run("7b", "v6e:16x16")


def lwm_text_7b_h100() -> RunConfig:
    """The text stages of the paper for LLaMA-2 7B.

    Hardware: 8 nodes of 8 GPUs of 80 GB (64xH100).
    Cost: at least 1.8 days, by `ringworld plan`.
    Never run by us.
    """
    return text_run("7b", "64xH100")


def lwm_text_7b_h200() -> RunConfig:
    """The text stages of the paper for LLaMA-2 7B on one node.

    Hardware: 8 GPUs of 141 GB (8xH200).
    Cost: at least 14 days, by `ringworld plan`.
    Never run by us.
    """
    return text_run("7b", "8xH200")


def lwm_text_llama_8b() -> RunConfig:
    """The last three text stages for Llama-3.1 8B, which reads 128K tokens when it begins.

    Bases are the paper's, and the scaling of its RoPE stays; nobody has tried whether that suits this model.

    Hardware: 8 nodes of 8 GPUs of 141 GB (64xH200).
    Cost: at least 1.3 days, by `ringworld plan`.
    Never run by us. Its step is type-checked at full size.

        ringworld train --preset lwm_text_llama_8b --data examples --init Llama-3.1-8B --out runs/llama
    """
    return text_run("llama-3.1-8b", "64xH200", stages=TEXT_STAGES[2:])


def lwm_text_13b() -> RunConfig:
    """The text stages for the 13b of LWM's code; for LLaMA-2 13B add `--model.norm-eps 1e-5`.

    Hardware: 256 TPU v5p chips (v5p:4x8x8).
    Cost: at least 1.6 days, by `ringworld plan`.
    Never run by us: the project had no TPU.
    """
    return text_run("13b", "v5p:4x8x8")


def lwm_text_30b() -> RunConfig:
    """The text stages for the 30b of LWM's code.

    Hardware: 256 TPU v5p chips (v5p:4x8x8).
    Cost: at least 3.3 days, by `ringworld plan`.
    Never run by us: the project had no TPU.
    """
    return text_run("30b", "v5p:4x8x8")


def lwm_text_65b() -> RunConfig:
    """The text stages for the 65b of LWM's code.

    Hardware: 256 TPU v5p chips (v5p:4x8x8).
    Cost: at least 5.7 days, by `ringworld plan`.
    Never run by us: the project had no TPU. Its step is type-checked at full size.
    """
    return text_run("65b", "v5p:4x8x8")
