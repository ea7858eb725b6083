"""A train step of the shape of LLaMA-2 7B at 128K tokens on an accelerator: its MFU, and what the plan said.

    python benchmarks/long_step.py > benchmarks/results/long_step.json
    python benchmarks/long_step.py --remat offload > benchmarks/results/long_step_offload.json

The model has as many layers as fit by arithmetic; the whole sequence is one example, so that FLOPs are those
of causal attention, and nothing is counted twice. All devices of the machine form one ring. A time is the
least of all steps after the first. Memory is what the allocator of a device had in use at most; the plan is
the arithmetic of `ringworld plan`, and the compiler's figure stands beside both. Set
`XLA_PYTHON_CLIENT_MEM_FRACTION=0.95`: by itself jax takes three quarters of a GPU.
"""

import argparse
import json
import shlex
import sys
import time
from dataclasses import replace
from typing import Any

import jax
from whole_rows import ids_of, placed

from ringworld.attention.config import AttentionConfig
from ringworld.core.mesh import mesh_of
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.origin import machine, versions
from ringworld.model.config import Architecture, Execution
from ringworld.model.lora_config import LoraConfig
from ringworld.model.sizes import LLAMA_2_7B, LWM_SIZES
from ringworld.planning.machines import peak_flops_per_second
from ringworld.planning.memory import memory_needs
from ringworld.planning.roofline import step_flops
from ringworld.training.config import OptimizerConfig, Stage, TrainingConfig
from ringworld.training.state import init_state
from ringworld.training.step import make_step

SHAPES = {"7b": LLAMA_2_7B, "debug": LWM_SIZES["debug"]}
ROOM = 0.9
NO_ADAPTER = LoraConfig()


def planned_bytes(stage: Stage, model: Architecture, execution: Execution) -> int:
    """Return what a device needs by arithmetic."""
    return memory_needs(
        stage, architecture=model, execution=execution, optimizer=OptimizerConfig(), lora=NO_ADAPTER
    ).total


def most_layers(stage: Stage, model: Architecture, execution: Execution, *, available: int) -> int:
    """Return how many layers of a model fit a device, up to its own."""
    fit = [
        count
        for count in range(1, model.layers + 1)
        if planned_bytes(stage, replace(model, layers=count), execution) <= ROOM * available
    ]
    if not fit:
        sys.exit(f"not one layer fits {available / 2**30:.1f} GiB: ask for fewer --tokens")
    return fit[-1]


def measure(stage: Stage, model: Architecture, execution: Execution, *, steps: int) -> dict[str, Any]:
    """Train on one example, and compare time and memory with what was planned."""
    config, mesh = TrainingConfig(stages=(stage,)), mesh_of(stage.mesh)
    ids = ids_of(model.vocab, sequences=stage.batch_sequences, length=stage.context_tokens)
    with jax.set_mesh(mesh):
        state = init_state(config, model, mesh=mesh)
        pieces = placed(ids, attention=execution.attention, mesh=mesh)
        compiled = make_step(config, stage, model, execution).lower(state, pieces).compile()
        losses, seconds = [], []
        for _ in range(steps + 1):
            begun = time.perf_counter()
            state, output = jax.block_until_ready(compiled(state, pieces))
            seconds.append(time.perf_counter() - begun)
            losses.append(float(output.loss.loss))
    device, least = jax.devices()[0], min(seconds[1:])
    flops = step_flops(stage, model, NO_ADAPTER)
    peak = peak_flops_per_second(device.device_kind)
    held = (device.memory_stats() or {}).get("peak_bytes_in_use")
    said, planned = compiled.memory_analysis(), planned_bytes(stage, model, execution)
    return {
        "step_seconds": least,
        "tokens_per_second": stage.batch_sequences * stage.context_tokens / least,
        "causal_flops_per_step": flops,
        "mfu": flops / (least * peak * mesh.size) if peak else None,
        "planned_bytes": planned,
        "compiled_bytes": said and said.argument_size_in_bytes + said.temp_size_in_bytes,
        "measured_bytes": held,
        "measured_over_planned": held / planned if held else None,
        "losses": losses,
    }


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--layers", type=int, help="of the model; by default as many as fit")
    parser.add_argument("--tokens", type=int, default=2**17, help="of the sequence")
    parser.add_argument("--remat", choices=("layer", "all", "offload"), default="layer")
    parser.add_argument("--steps", type=int, default=5, help="timed ones")
    asked = parser.parse_args()
    devices = jax.devices()
    stage = Stage(
        name="bench",
        context_tokens=asked.tokens,
        rope_base=1e7,
        steps=1 << 20,
        batch_sequences=1,
        learning_rate=1e-5,
        mesh=MeshConfig(ring=len(devices)),
    )
    execution = Execution(
        attention=AttentionConfig(layout="balanced"),
        mlp_block_tokens=4096,
        compute="bfloat16",
        remat=asked.remat,
    )
    model, available = SHAPES[asked.shape], (devices[0].memory_stats() or {}).get("bytes_limit")
    if asked.layers is None and available is None:
        sys.exit("this device does not say how much memory it has: give --layers")
    layers = asked.layers or most_layers(stage, model, execution, available=available)
    record = {
        "command": shlex.join(["python", "benchmarks/long_step.py", *sys.argv[1:]]),
        "versions": versions("ringworld", "jax", "jaxlib"),
        "machine": machine(),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "shape": {"model": asked.shape, "layers": layers, "tokens": asked.tokens, "remat": asked.remat},
        "available_bytes": available,
        "results": measure(stage, replace(model, layers=layers), execution, steps=asked.steps),
    }
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
