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
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


def tokens_of(sequences: int, length: int) -> Any:
    """Return the ids that every subject trains on."""
    import numpy as np

    return np.random.default_rng(0).integers(0, SHAPE["text_vocab"], (sequences, length), dtype=np.int32)


def ours(folder: Path, subject: Subject, *, sequences: int, length: int, steps: int) -> dict[str, Any]:
    """Train with ringworld."""
    import jax
    import numpy as np

    from ringworld.artifacts.model_folder import ModelFolder
    from ringworld.core.memory import peak_memory_bytes
    from ringworld.core.mesh import mesh_of
    from ringworld.data.batch import PackedBatch
    from ringworld.model.arrange import Layout
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
    ids = tokens_of(sequences, length)
    shape = ids.shape
    weights = np.full(shape, 1 / (length - 1), np.float32)
    weights[:, -1] = 0
    batch = PackedBatch(
        tokens=ids,
        targets=np.where(weights > 0, np.roll(ids, -1, axis=1), -1).astype(np.int32),
        order=np.tile(np.arange(length, dtype=np.int32), (sequences, 1)),
        first=np.zeros(shape, np.int32),
        text_weights=weights,
        vision_weights=np.zeros(shape, np.float32),
    )
    mesh = mesh_of(stage.mesh)
    with jax.set_mesh(mesh):
        frozen = opened.read_weights(mesh, weights=config.lora.base)
        state = init_state(config, opened.architecture, mesh=mesh)
        pieces = (Layout(execution.attention, mesh=mesh).place(batch, [[length]] * sequences).arrays,)
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
    optimizer = torch.optim.AdamW(learned, lr=RATE, betas=(0.9, 0.95), weight_decay=0.0)
    ids = torch.from_numpy(tokens_of(sequences, length)).long()
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


def write_model(folder: Path) -> None:
    """Write the model that every subject adapts."""
    import jax

    from ringworld.artifacts.model_folder import save_model
    from ringworld.artifacts.tokenizers import Tokenizers
    from ringworld.core.mesh import mesh_of
    from ringworld.core.mesh_config import MeshConfig
    from ringworld.core.origin import Origin
    from ringworld.model.config import Architecture, Rope
    from ringworld.model.world_model import WorldModel
    from ringworld.text.tokenizer import TextTokenizer

    architecture, mesh = Architecture(**SHAPE, rope=Rope(base=1e5), norm_eps=1e-5), mesh_of(MeshConfig())
    with jax.set_mesh(mesh):
        model = jax.jit(lambda key: WorldModel.init(architecture, key=key))(jax.random.key(0))
    save_model(
        folder,
        model,
        architecture=architecture,
        tokenizers=Tokenizers(text=TextTokenizer.train(["a b c"], vocab_size=300), frames=None),
        context_tokens=8192,
        generation={},
        origin=Origin(kind="model"),
        mesh=mesh,
    )


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
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as work:
        write_model(Path(work) / "model")
        for _ in range(asked.rounds):
            for name in SUBJECTS:
                command = [sys.executable, *sys.argv, "--subject", name, "--model", f"{work}/model"]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                found = json.loads(done.stdout.splitlines()[-1])
                best = results.setdefault(name, found)
                for key, choose in (("step_seconds", min), ("peak_bytes", max)):
                    best[key] = choose(best[key], found[key])
                print(name, best, file=sys.stderr, flush=True)
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
