"""The paper's text stages for other sizes of model and other machines; each stage has a mesh by one rule."""

from collections.abc import Sequence
from dataclasses import replace

from ringworld.core.errors import not_a_choice
from ringworld.core.mesh_config import MeshConfig
from ringworld.model.sizes import LLAMA_2_7B, LLAMA_3_1_8B, LWM_SIZES
from ringworld.presets.lwm import TEXT_STAGES, text_recipe
from ringworld.presets.on_machine import on_machine
from ringworld.presets.run import RunConfig
from ringworld.training.config import Stage

MODELS = LWM_SIZES | {"7b": LLAMA_2_7B, "llama-3.1-8b": LLAMA_3_1_8B}
"""By the names of LWM's code; the paper's own begins from LLaMA-2, which has another epsilon."""


def text_run(size: str, machine: str, *, stages: Sequence[Stage] = TEXT_STAGES) -> RunConfig:
    """Return the text stages of the paper for a size of model, each on a mesh of all chips of a machine.

    A preset of your own for any of them is a function without arguments that returns this; see `on_machine`
    for the meshes.

    Args:
        size: one of `MODELS`.
        machine: a TPU slice such as `v5p:4x8x8`, or GPUs such as `64xH100`.
        stages: whose meshes do not matter.

    Raises:
        InputError: there is no such size or machine, or a stage does not fit it.
    """
    if size not in MODELS:
        raise not_a_choice("size", size, choices=MODELS)
    # Those of the paper do not divide every size.
    anywhere = [replace(stage, mesh=MeshConfig(), accumulation_steps=1) for stage in stages]
    return on_machine(text_recipe(MODELS[size], anywhere), machine)


def lwm_text_200m() -> RunConfig:
    """The text stages for the 200m of LWM's code, to try the whole recipe.

    Hardware: 8 GPUs of 80 GB (8xH100).
    Cost: at least 1.4 days, by `ringworld plan`.
    Never run by us.
    Source: table 11 of arXiv 2402.08268v4, and the 200m of LWM's `lwm/llama.py`.
    """
    return text_run("200m", "8xH100")


def lwm_text_1b() -> RunConfig:
    """The text stages for the 1b of LWM's code.

    Hardware: 8 GPUs of 80 GB (8xH100).
    Cost: at least 4.5 days, by `ringworld plan`.
    Never run by us.
    Source: table 11 of arXiv 2402.08268v4, and the 1b of LWM's `lwm/llama.py`.
    """
    return text_run("1b", "8xH100")


def lwm_text_3b() -> RunConfig:
    """The text stages for the 3b of LWM's code.

    Hardware: 8 GPUs of 141 GB (8xH200).
    Cost: at least 8.8 days, by `ringworld plan`.
    Never run by us.
    Source: table 11 of arXiv 2402.08268v4, and the 3b of LWM's `lwm/llama.py`.
    """
    return text_run("3b", "8xH200")


def lwm_text_7b_v5p() -> RunConfig:
    """The text stages of the paper for LLaMA-2 7B, on rings of up to 64 chips in place of tensor parallelism.

    Hardware: 256 TPU v5p chips (v5p:4x8x8); the same meshes fit 256 TPU v4 chips.
    Cost: at least 1.0 days, by `ringworld plan`.
    Never run by us: the project had no TPU.
    Source: table 11 of arXiv 2402.08268v4, but for its meshes.
    """
    return text_run("7b", "v5p:4x8x8")


def lwm_text_7b_v6e() -> RunConfig:
    """The text stages of the paper for LLaMA-2 7B.

    Hardware: 256 TPU v6e chips (v6e:16x16).
    Cost: at least 0.5 days, by `ringworld plan`.
    Never run by us: the project had no TPU.
    Source: table 11 of arXiv 2402.08268v4, but for its meshes.
    """
    return text_run("7b", "v6e:16x16")


def lwm_text_7b_h100() -> RunConfig:
    """The text stages of the paper for LLaMA-2 7B.

    Hardware: 8 nodes of 8 GPUs of 80 GB (64xH100).
    Cost: at least 1.8 days, by `ringworld plan`.
    Never run by us.
    Source: table 11 of arXiv 2402.08268v4, but for its meshes.
    """
    return text_run("7b", "64xH100")


def lwm_text_7b_h200() -> RunConfig:
    """The text stages of the paper for LLaMA-2 7B on one node.

    Hardware: 8 GPUs of 141 GB (8xH200).
    Cost: at least 14 days, by `ringworld plan`.
    Never run by us.
    Source: table 11 of arXiv 2402.08268v4, but for its meshes.
    """
    return text_run("7b", "8xH200")


def lwm_text_llama_8b() -> RunConfig:
    """The last three text stages for Llama-3.1 8B, which reads 128K tokens when it begins.

    Bases are the paper's, and the scaling of its RoPE stays; nobody has tried whether that suits this model.

    Hardware: 8 nodes of 8 GPUs of 141 GB (64xH200).
    Cost: at least 1.3 days, by `ringworld plan`.
    Never run by us. Its step is type-checked at full size.
    Source: table 11 of arXiv 2402.08268v4, and the `config.json` of meta-llama/Llama-3.1-8B.

        ringworld train --preset lwm_text_llama_8b --data examples --init Llama-3.1-8B --out runs/llama
    """
    return text_run("llama-3.1-8b", "64xH200", stages=TEXT_STAGES[2:])


def lwm_text_13b() -> RunConfig:
    """The text stages for the 13b of LWM's code; for LLaMA-2 13B add `--model.norm-eps 1e-5`.

    Hardware: 256 TPU v5p chips (v5p:4x8x8).
    Cost: at least 1.6 days, by `ringworld plan`.
    Never run by us: the project had no TPU.
    Source: table 11 of arXiv 2402.08268v4, and the 13b of LWM's `lwm/llama.py`.
    """
    return text_run("13b", "v5p:4x8x8")


def lwm_text_30b() -> RunConfig:
    """The text stages for the 30b of LWM's code.

    Hardware: 256 TPU v5p chips (v5p:4x8x8).
    Cost: at least 3.3 days, by `ringworld plan`.
    Never run by us: the project had no TPU.
    Source: table 11 of arXiv 2402.08268v4, and the 30b of LWM's `lwm/llama.py`.
    """
    return text_run("30b", "v5p:4x8x8")


def lwm_text_65b() -> RunConfig:
    """The text stages for the 65b of LWM's code.

    Hardware: 256 TPU v5p chips (v5p:4x8x8).
    Cost: at least 5.7 days, by `ringworld plan`.
    Never run by us: the project had no TPU. Its step is type-checked at full size.
    Source: table 11 of arXiv 2402.08268v4, and the 65b of LWM's `lwm/llama.py`.
    """
    return text_run("65b", "v5p:4x8x8")
