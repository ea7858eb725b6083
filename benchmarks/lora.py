"""A LoRA step beside peft with torch: seconds and peak memory, on the same weights, tokens and cores.

    make parity
    python benchmarks/lora.py > benchmarks/results/lora_cpu.json

The model has the shape of SmolLM2-135M and random weights; all seven matrices of each layer are adapted. Each
subject is a process of its own, and all run in turn, several rounds; a time is the least of all steps, memory
the most that the process ever held, with its libraries and what it compiled. Both begin with an adapter that
adds nothing, so that the first losses are those of one model.
"""

import argparse
import json
import os
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whole_rows import ids_of, placed, rounds_of

from ringworld.core.origin import machine, versions

RANK, ALPHA, RATE = 16, 32.0, 1e-4
SHAPE: dict[str, Any] = dict(
    layers=30, embed=576, heads=9, kv_heads=3, head=64, mlp=1536, text_vocab=49_152, tied=True
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """One way to train the adapter."""

    peer: bool = False
    remat: str = "none"
    base: str = "float32"


SUBJECTS = {
    "ringworld": Subject(),
    "ringworld, layers computed again": Subject(remat="layer"),
    "ringworld, layers computed again, base in bfloat16": Subject(remat="layer", base="bfloat16"),
    "ringworld, layers computed again, base in int8": Subject(remat="layer", base="int8"),
    "peft": Subject(peer=True),
    "peft, layers computed again": Subject(peer=True, remat="layer"),
}


def ours(folder: Path, subject: Subject, *, sequences: int, length: int, steps: int) -> dict[str, Any]:
    """Train with ringworld."""
    import jax

    from ringworld.artifacts.model_folder import ModelFolder
    from ringworld.core.memory import peak_memory_bytes
    from ringworld.core.mesh import mesh_of
    from ringworld.model.config import Execution
    from ringworld.model.lora_config import LoraConfig
    from ringworld.training.config import OptimizerConfig, Stage, TrainingConfig
    from ringworld.training.state import init_state
    from ringworld.training.step import make_step

    opened = ModelFolder.open(folder)
    stage = Stage(
        name="bench",
        context_tokens=length,
        rope_base=opened.architecture.rope.base,
        steps=1 << 20,
        batch_sequences=sequences,
        learning_rate=RATE,
        min_learning_rate=RATE,
    )
    config = TrainingConfig(
        stages=(stage,),
        optimizer=OptimizerConfig(weight_decay=0.0),
        lora=LoraConfig(rank=RANK, alpha=ALPHA, base=subject.base),  # pyright: ignore
    )
    execution = Execution(remat=subject.remat)  # pyright: ignore
    mesh = mesh_of(stage.mesh)
    with jax.set_mesh(mesh):
        frozen = opened.read_weights(mesh, weights=config.lora.base)
        state = init_state(config, opened.architecture, mesh=mesh)
        ids = ids_of(SHAPE["text_vocab"], sequences=sequences, length=length)
        pieces = placed(ids, attention=execution.attention, mesh=mesh)
        step = make_step(config, stage, opened.architecture, execution)
        compiled = step.lower(state, pieces, frozen).compile()
        losses, seconds = [], []
        for _ in range(steps + 1):
            begun = time.perf_counter()
            state, output = compiled(state, pieces, frozen)
            losses.append(float(output.loss.loss))
            seconds.append(time.perf_counter() - begun)
    return {"step_seconds": min(seconds[1:]), "peak_bytes": peak_memory_bytes(), "losses": losses}


def theirs(folder: Path, subject: Subject, *, sequences: int, length: int, steps: int) -> dict[str, Any]:
    """Train with peft."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from ringworld.core.memory import peak_memory_bytes

    torch.set_num_threads(os.cpu_count() or 1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    model.config.use_cache = False
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, config).train()
    if subject.remat == "layer":
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # Fused is torch's fastest.
    optimizer = torch.optim.AdamW(learned, lr=RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    ids = torch.from_numpy(ids_of(SHAPE["text_vocab"], sequences=sequences, length=length)).long()
    losses, seconds = [], []
    for _ in range(steps + 1):
        begun = time.perf_counter()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - begun)
    return {"step_seconds": min(seconds[1:]), "peak_bytes": peak_memory_bytes(), "losses": losses}


def main() -> None:
    """Measure every subject in turn and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=512, help="of a sequence")
    parser.add_argument("--steps", type=int, default=3, help="timed ones of a round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--subject", choices=SUBJECTS)
    parser.add_argument("--model", type=Path)
    asked = parser.parse_args()
    if asked.subject:
        subject = SUBJECTS[asked.subject]
        train = theirs if subject.peer else ours
        sizes = {"sequences": asked.sequences, "length": asked.tokens, "steps": asked.steps}
        print(json.dumps(train(asked.model, subject, **sizes)))
        return
    results = rounds_of(SUBJECTS, shape=SHAPE, rounds=asked.rounds)
    peer = results["peft"]
    record = {
        "command": shlex.join(["python", "benchmarks/lora.py", *sys.argv[1:]]),
        "versions": versions("ringworld", "jax", "jaxlib", "torch", "transformers", "peft"),
        "machine": machine(),
        "shape": SHAPE | {"rank": RANK, "sequences": asked.sequences, "tokens": asked.tokens},
        "results": results,
        "times_as_fast_as_peft": {
            name: peer["step_seconds"] / found["step_seconds"] for name, found in results.items()
        },
        "memory_of_peft": {name: found["peak_bytes"] / peer["peak_bytes"] for name, found in results.items()},
    }
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
