"""The runs of the paper, with its figures (arXiv 2402.08268v4, tables 11 and 13)."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ringworld.attention.config import AttentionConfig
from ringworld.core.mesh_config import MeshConfig
from ringworld.data.config import ClipConfig, PackingConfig, PrepareConfig
from ringworld.evaluation.config import EvaluationConfig
from ringworld.evaluation.held_out import HeldOutConfig
from ringworld.evaluation.needles import NeedleConfig
from ringworld.inference.config import SamplingConfig, SamplingDefaults
from ringworld.model.config import Architecture, Execution
from ringworld.model.sizes import LLAMA_2_7B
from ringworld.presets import mixtures
from ringworld.presets.run import RunConfig
from ringworld.training.config import Stage, TrainingConfig
from ringworld.vision.config import FrameTokenizerConfig, FrameTrainingConfig

_EXECUTION = Execution(
    attention=AttentionConfig(layout="balanced"), mlp_block_tokens=4_096, compute="bfloat16"
)
_SAMPLING = SamplingDefaults(
    image=SamplingConfig(top_k=8_192, guidance_scale=5.0), video=SamplingConfig(top_k=1_000)
)


def _stage(
    name: str,
    power: int,
    *,
    tokens: int,
    rates: tuple[float, float],
    max_frames: int = 0,
    **fields: Any,
) -> Stage:
    """Return a column of the paper's tables, whose updates are of so many tokens."""
    return Stage(
        name=name,
        context_tokens=2**power,
        batch_sequences=tokens // 2**power,
        learning_rate=rates[0],
        min_learning_rate=rates[1],
        moments="reset",
        clips=ClipConfig(max_frames=max_frames),
        **fields,
    )


def _in_pieces(pieces: int, *, fsdp: int, tensor: int, ring: int = 1) -> dict[str, Any]:
    """Return a mesh of the paper's with a ring so many times longer, for as many pieces of a batch.

    What is kept between layers is not cut over the tensor axis: on the paper's own meshes, with one sequence
    for each FSDP shard, a step at 256K to 1M takes 85 GB of a chip. A v5p has them, but a v4 has 33.
    """
    return {
        "mesh": MeshConfig(fsdp=fsdp // pieces, ring=ring * pieces, tensor=tensor),
        "accumulation_steps": pieces,
    }


def _text(name: str, power: int, shortest_tokens: int, longest_tokens: int = 0, **fields: Any) -> Stage:
    mixture = mixtures.documents(shortest_tokens=shortest_tokens, longest_tokens=longest_tokens)
    return _stage(name, power, tokens=2**22, rates=(4e-5, 4e-5), mixture=mixture, **fields)


_vision = partial(
    _stage, tokens=2**23, rates=(6e-4, 6e-5), mixture=mixtures.FOUR_TASKS_AND_TEXT, rope_base=5e7
)
_chat = partial(_vision, rates=(8e-5, 8e-5), mixture=mixtures.FOUR_TASKS)
TEXT_STAGES = (
    _text(
        "32K",
        15,
        10_000,
        100_000,
        rope_base=1e6,
        steps=1_200,
        warmup_steps=100,
        mesh=MeshConfig(fsdp=64, tensor=4),
    ),
    _text(
        "128K",
        17,
        100_000,
        200_000,
        rope_base=1e7,
        steps=3_000,
        warmup_steps=200,
        **_in_pieces(2, fsdp=32, tensor=8),
    ),
    _text(
        "256K",
        18,
        200_000,
        500_000,
        rope_base=1e7,
        steps=3_000,
        warmup_steps=200,
        **_in_pieces(4, fsdp=16, tensor=16),
    ),
    _text(
        "512K",
        19,
        500_000,
        1_000_000,
        rope_base=25e6,
        steps=720,
        warmup_steps=50,
        **_in_pieces(4, fsdp=8, ring=2, tensor=16),
    ),
    _text(
        "1M",
        20,
        1_000_000,
        rope_base=5e7,
        steps=450,
        warmup_steps=25,
        **_in_pieces(4, fsdp=4, ring=4, tensor=16),
    ),
)
_VISION_STAGES = (
    _vision("1K", 10, max_frames=3, steps=45_000, warmup_steps=1_000, mesh=MeshConfig(fsdp=512)),
    _vision("8K", 13, max_frames=30, steps=14_000, warmup_steps=500, mesh=MeshConfig(fsdp=512)),
)
_CHAT_STAGES = (
    _chat("32K", 15, max_frames=100, steps=1_200, warmup_steps=100, mesh=MeshConfig(fsdp=128, tensor=4)),
    _chat("128K", 17, max_frames=450, steps=450, warmup_steps=50, **_in_pieces(2, fsdp=64, tensor=8)),
    _chat("1M", 20, max_frames=4_000, steps=50, warmup_steps=5, **_in_pieces(4, fsdp=8, ring=4, tensor=16)),
)


def _needles(longest_power: int) -> EvaluationConfig:
    contexts = tuple(2**power for power in range(12, longest_power + 1, 2))
    single = NeedleConfig(context_tokens=contexts, rounds=3)
    return EvaluationConfig(tasks=(single, replace(single, needles=4, asked=2, rounds=10), HeldOutConfig()))


def lwm_text_7b() -> RunConfig:
    """LWM-Text: LLaMA-2 7B over text alone, extended from 32K to 1M tokens in five stages.

    Hardware: 256 TPU v4 chips, the paper's v4-512 slice (v4:4x8x8), or as many v5p.
    Cost: 58 hours of that slice for the last stage in the paper; 241 for all (8, 45, 83, 47 and 58), of which
    the others are from memory. At least 1.6 days by `ringworld plan`.
    Never run by us: the project had no TPU. Compiled for both slices, a stage needs at most 24 GiB of a v4's
    30.75 (`benchmarks/results/plan.json`); on v5p one sequence of 4M tokens fits, too.
    Source: table 11 of arXiv 2402.08268v4.

    Give it LLaMA-2's weights and tokenizer with `--init`; without, it begins from random weights.

        ringworld train --preset lwm_text_7b --data examples --init llama-2-7b --out runs/lwm_text_7b
    """
    return text_recipe(LLAMA_2_7B, TEXT_STAGES)


def text_recipe(model: Architecture, stages: Sequence[Stage]) -> RunConfig:
    """Return the run of text stages of the paper, or some of them, for a model."""
    return RunConfig(
        frame_tokenizer=None,
        frame_training=None,
        prepare=PrepareConfig(document_tokens=2**20, held_out_fraction=0.001),
        model=model,
        execution=_EXECUTION,
        training=TrainingConfig(
            stages=tuple(stages), packing=PackingConfig(open_sequences=64), log_every_steps=10
        ),
        evaluation=_needles(20),
        sampling=_SAMPLING,
    )


def lwm_text_chat_7b() -> RunConfig:
    """LWM-Text-Chat: seven tokens of conversations for each three about long documents, at 1M tokens.

    Hardware: 256 TPU v4 chips, the paper's v4-512 slice (v4:4x8x8).
    Cost: at least 5 hours, by `ringworld plan`; the paper's is not known to us, but its last text stage, of
    half as many tokens again, took 58 hours of that slice.
    Never run by us: the project had no TPU.
    Source: the chat fine-tuning of arXiv 2402.08268v4; steps, tokens and warm-up are the paper's from memory.

    The paper trains such a model for each context from 128K on, each from the text model of that context.
    `ringworld make-qa` writes the conversations about documents (`long_qa`).

        ringworld train --preset lwm_text_chat_7b --data chats --init runs/text/models/1M --out runs/chat
    """
    run = lwm_text_7b()
    stage = replace(TEXT_STAGES[-1], steps=300, warmup_steps=25, mixture=mixtures.CHAT)
    packing = replace(run.training.packing, together="name")
    return replace(run, training=replace(run.training, stages=(stage,), packing=packing))


def lwm_7b() -> RunConfig:
    """LWM: the first two vision-language stages of the 7B model, images at 1K and short videos at 8K tokens.

    Hardware: 512 TPU v4 chips, the paper's v4-1024 slice (v4:8x8x8), weights sharded over all of them.
    Cost: 115 hours of that slice in the paper (83 and 32 by stage), from memory.
    Never run by us: the project had no TPU. Its step is type-checked at full size on these meshes.
    Source: table 13 of arXiv 2402.08268v4.

        ringworld train --preset lwm_7b --data examples --init runs/lwm_text_7b/models/1M --out runs/lwm_7b
    """
    return RunConfig(
        frame_tokenizer=FrameTokenizerConfig(),
        frame_training=FrameTrainingConfig(
            steps=500_000,
            batch_frames=256,
            learning_rate=1e-4,
            warmup_steps=5_000,
            continuous_steps=5_000,
            adversarial_start_step=250_000,
            checkpoint_every_steps=5_000,
        ),
        frame_training_frames=2**16,
        prepare=PrepareConfig(max_frames=4_000, document_tokens=2**20, held_out_fraction=0.001),
        model=replace(LLAMA_2_7B, vision_vocab=8_448),
        execution=_EXECUTION,
        training=TrainingConfig(
            stages=_VISION_STAGES,
            packing=PackingConfig(open_sequences=64),
            log_every_steps=10,
        ),
        evaluation=_needles(12),
        sampling=_SAMPLING,
    )


def lwm_chat_7b() -> RunConfig:
    """LWM-Chat: images and videos of up to 4,000 frames, asked about and drawn, at 32K, 128K and 1M tokens.

    Hardware: 512 TPU v4 chips, the paper's v4-1024 slice (v4:8x8x8).
    Cost: 24 hours of that slice in the paper (10, 6 and 8 by stage), from memory.
    Never run by us: the project had no TPU. Its step is type-checked at full size on these meshes.
    Source: table 13 of arXiv 2402.08268v4.

    It reads the examples that `lwm_7b` reads, if there are questions or conversations among them: codes are
    prepared once, and each stage draws as many frames of a clip as its context holds.

        ringworld train --preset lwm_chat_7b --data examples --init runs/lwm_7b/models/8K --out runs/chat
    """
    run = lwm_7b()
    return replace(
        run,
        training=replace(run.training, stages=_CHAT_STAGES),
        evaluation=_needles(20),
    )


def lwm_vision_7b() -> RunConfig:
    """All five vision-language stages in one run: those of `lwm_7b`, then those of `lwm_chat_7b`.

    Hardware: 512 TPU v4 chips, the paper's v4-1024 slice (v4:8x8x8).
    Cost: 139 hours of that slice in the paper, from memory.
    Never run by us: the project had no TPU. Its step is type-checked at full size on these meshes.
    Source: table 13 of arXiv 2402.08268v4.

        ringworld train --preset lwm_vision_7b --data examples --init runs/text/models/1M --out runs/vision
    """
    run = lwm_chat_7b()
    return replace(run, training=replace(run.training, stages=_VISION_STAGES + _CHAT_STAGES))
