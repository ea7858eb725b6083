"""A train step beside transformers with torch: seconds and peak memory, on the same weights and tokens.

    make parity
    python benchmarks/train_step.py --case short > benchmarks/results/train_step_cpu.json
    python benchmarks/train_step.py --case long --steps 1 > benchmarks/results/train_step_16k_cpu.json

The model has 12 layers of width 768, random weights, and everything in float32. `short` is 4 rows of 2,048
tokens, of which no product is computed again; `long` one of 16,384, where both compute each layer again, ours
with its feed-forward by blocks, and torch attends by SDPA. Each subject is a process of its own, and both run
in turn, several rounds; a time is the least of all steps, memory the most that the process ever held, with
its libraries and what it compiled. The losses of both are in the record: they must be those of one model.
"""

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from whole_rows import ids_of, placed, rounds_of

from ringworld.core.origin import machine, versions

SHAPE: dict[str, Any] = dict(
    layers=12, embed=768, heads=12, kv_heads=12, head=64, mlp=2048, text_vocab=32_000
)
RATE, CLIP_NORM, DECAY = 1e-4, 1.0, 0.1
SUBJECTS = ("ringworld", "transformers")


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """What is trained on, and what is computed again."""

    sequences: int
    length: int
    remat: Literal["none", "layer"]
    mlp_block_tokens: int


CASES = {
    "short": Case(sequences=4, length=2048, remat="none", mlp_block_tokens=0),
    "long": Case(sequences=1, length=16_384, remat="layer", mlp_block_tokens=2048),
}


def ours(folder: Path, case: Case, *, steps: int) -> dict[str, Any]:
    """Train with ringworld."""
    import jax

    from ringworld.artifacts.model_folder import ModelFolder
    from ringworld.core.mesh import mesh_of
    from ringworld.model.config import Execution
    from ringworld.training.config import OptimizerConfig, Stage, TrainingConfig
    from ringworld.training.state import init_state
    from ringworld.training.step import make_step

    opened = ModelFolder.open(folder)
    stage = Stage(
        name="bench",
        context_tokens=case.length,
        rope_base=opened.architecture.rope.base,
        steps=1 << 20,
        batch_sequences=case.sequences,
        learning_rate=RATE,
        min_learning_rate=RATE,
    )
    config = TrainingConfig(
        stages=(stage,), optimizer=OptimizerConfig(weight_decay=DECAY, clip_norm=CLIP_NORM)
    )
    execution = Execution(remat=case.remat, mlp_block_tokens=case.mlp_block_tokens)
    ids = ids_of(SHAPE["text_vocab"], sequences=case.sequences, length=case.length)
    mesh = mesh_of(stage.mesh)
    with jax.set_mesh(mesh):
        state = init_state(config, opened.architecture, mesh=mesh, model=opened.read_weights(mesh))
        pieces = placed(ids, attention=execution.attention, mesh=mesh)
        step = make_step(config, stage, opened.architecture, execution)
        compiled = step.lower(state, pieces).compile()

        def once() -> float:
            nonlocal state
            state, output = compiled(state, pieces)
            return float(jax.block_until_ready((state, output))[1].loss.loss)

        return timed(once, steps=steps)


def theirs(folder: Path, case: Case, *, steps: int) -> dict[str, Any]:
    """Train with transformers on torch."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(os.cpu_count() or 1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    model = model.train()
    model.config.use_cache = False
    if case.remat == "layer":
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    weights = list(model.parameters())
    # Fused is torch's fastest.
    optimizer = torch.optim.AdamW(weights, lr=RATE, betas=(0.9, 0.95), weight_decay=DECAY, fused=True)
    ids = torch.from_numpy(ids_of(SHAPE["text_vocab"], sequences=case.sequences, length=case.length)).long()

    def once() -> float:
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return timed(once, steps=steps)


def timed(once: Callable[[], float], *, steps: int) -> dict[str, Any]:
    """Take a step and then those that are timed."""
    from ringworld.core.memory import peak_memory_bytes

    losses, seconds = [once()], []
    for _ in range(steps):
        begun = time.perf_counter()
        losses.append(once())
        seconds.append(time.perf_counter() - begun)
    return {"step_seconds": min(seconds), "peak_bytes": peak_memory_bytes(), "losses": losses}


def main() -> None:
    """Measure both in turn and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=CASES, default="short")
    parser.add_argument("--steps", type=int, default=3, help="timed ones of a round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--subject", choices=SUBJECTS)
    parser.add_argument("--model", type=Path)
    asked = parser.parse_args()
    case = CASES[asked.case]
    if asked.subject:
        train = ours if asked.subject == "ringworld" else theirs
        print(json.dumps(train(asked.model, case, steps=asked.steps)))
        return
    results = rounds_of(SUBJECTS, shape=SHAPE, rounds=asked.rounds)
    we, they = (results[name] for name in SUBJECTS)
    record = {
        "command": shlex.join(["python", "benchmarks/train_step.py", *sys.argv[1:]]),
        "versions": versions("ringworld", "jax", "jaxlib", "torch", "transformers"),
        "machine": machine(),
        "shape": SHAPE
        | {"sequences": case.sequences, "tokens": case.length, "remat": case.remat}
        | {"mlp_block_tokens": case.mlp_block_tokens},
        "results": results,
        "times_as_fast_as_transformers": they["step_seconds"] / we["step_seconds"],
        "memory_of_transformers": we["peak_bytes"] / they["peak_bytes"],
    }
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
