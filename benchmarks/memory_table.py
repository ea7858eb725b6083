"""Bytes that a token more costs a train step, by part: arithmetic beside what a compiler says.

    python benchmarks/memory_table.py > benchmarks/results/memory_table.json
    python benchmarks/memory_table.py --topology v5p:2x2x1 > benchmarks/results/memory_table_v5p.json

A step is compiled, and not run, several times. With twice as many layers it needs more, and without weights,
moments and gradients of these layers that is what is kept of each for backward. With half as many tokens it
needs less, which is what a token costs in all. Over a ring of two with as many tokens a device it needs more
again, which is the ring's. The compiler is XLA's for this machine's CPU, or libtpu's for chips that are not
there (extra `tpu`). The model has the proportions of LLaMA-2 7B at a quarter of its width.
"""

import argparse
import json
import shlex
import sys
from dataclasses import fields, replace
from typing import Any

from ringworld.attention.config import AttentionConfig, ComputeType
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.origin import machine, versions
from ringworld.model.config import Architecture, Execution
from ringworld.model.lora_config import LoraConfig
from ringworld.planning.machines import tpu_slice
from ringworld.planning.memory import memory_needs
from ringworld.training.config import OptimizerConfig, Stage, TrainingConfig

MODEL = Architecture(layers=8, embed=1024, heads=8, kv_heads=8, head=128, mlp=2752, text_vocab=32_000)
CONTEXT_TOKENS, LAYERS, RING = 16_384, (8, 16), 2
CASES = (
    Execution(remat="layer", mlp_block_tokens=1024),
    Execution(remat="layer"),
    Execution(remat="none", mlp_block_tokens=1024),
    Execution(remat="none"),
    Execution(remat="all", mlp_block_tokens=1024),
)


def compiled_bytes(stage: Stage, model: Architecture, execution: Execution, topology: str | None) -> int:
    """Return what the compiler says that a device needs, at most, for one step."""
    import jax

    from ringworld.core.mesh import mesh_of
    from ringworld.planning.program import compile_step, devices_of
    from ringworld.training.state import abstract_state
    from ringworld.training.step import abstract_pieces, make_step

    config = TrainingConfig(stages=(stage,))
    if topology is not None:
        chips = tpu_slice(topology)
        program = compile_step(
            config,
            stage,
            architecture=model,
            execution=execution,
            machine=chips,
            devices=devices_of(chips),
        )
        return program.memory.peak_bytes
    mesh = mesh_of(stage.mesh)
    state, pieces = abstract_state(config, model, mesh=mesh), abstract_pieces(stage, mesh=mesh)
    with jax.set_mesh(mesh):
        step = make_step(config, stage, model, execution)
        found = step.lower(state, pieces).compile().memory_analysis()
    assert found is not None
    return found.argument_size_in_bytes + found.temp_size_in_bytes


def measure(execution: Execution, topology: str | None) -> dict[str, Any]:
    """Return bytes a token on one device by arithmetic, `kept` of each layer, and what a compiler says."""
    chips = 1 if topology is None else tpu_slice(topology).chips
    stage = Stage(
        name="x",
        context_tokens=CONTEXT_TOKENS,
        rope_base=1e6,
        steps=2,
        batch_sequences=chips,
        learning_rate=1e-4,
        mesh=MeshConfig(data=chips),
    )
    members = max(RING, chips)
    cases = {
        "whole": (stage, MODEL),
        "more layers": (stage, replace(MODEL, layers=LAYERS[1])),
        "fewer tokens": (replace(stage, context_tokens=CONTEXT_TOKENS // 2), MODEL),
        "ring": (
            replace(
                stage,
                context_tokens=members * CONTEXT_TOKENS,
                batch_sequences=1,
                mesh=MeshConfig(ring=members),
            ),
            MODEL,
        ),
    }
    found = {name: compiled_bytes(*case, execution, topology) for name, case in cases.items()}
    needs = {
        name: memory_needs(
            stage, architecture=model, execution=execution, optimizer=OptimizerConfig(), lora=LoraConfig()
        )
        for name, (stage, model) in cases.items()
    }
    whole = needs["whole"]
    layers, state = LAYERS[1] - LAYERS[0], ("weights", "moments", "gradients")
    of_state = sum(getattr(needs["more layers"], name) - getattr(whole, name) for name in state)
    # Over a ring the state of a device is a share.
    spread = sum(getattr(whole, name) - getattr(needs["ring"], name) for name in state)
    growing = ("kept", "batch", "layer", "ring")
    return {
        "remat": execution.remat,
        "mlp_block_tokens": execution.mlp_block_tokens,
        "compute": execution.compute,
        "bytes_a_token_by_arithmetic": {
            name: getattr(needs["ring"], name) / CONTEXT_TOKENS / (LAYERS[0] if name == "kept" else 1)
            for name in growing
        },
        "bytes_a_token_compiled": {
            "kept of a layer": (found["more layers"] - found["whole"] - of_state) / layers / CONTEXT_TOKENS,
            "in all": (found["whole"] - found["fewer tokens"]) / (CONTEXT_TOKENS / 2),
            "ring": (found["ring"] - found["whole"] + spread) / CONTEXT_TOKENS,
        },
        "bytes_a_token_in_all_by_arithmetic": (whole.total - needs["fewer tokens"].total)
        / (CONTEXT_TOKENS / 2),
        "whole_bytes": {name: {"arithmetic": needs[name].total, "compiled": found[name]} for name in cases},
        "whole_compiled_over_arithmetic": {name: found[name] / needs[name].total for name in cases},
    }


def main() -> None:
    """Compile every case and print one JSON object."""
    from ringworld.core.mesh import simulate_devices

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--topology", help="of a TPU, such as v5p:2x2x1; by default this machine's CPU")
    asked = parser.parse_args()
    simulate_devices(RING)
    # A CPU widens bfloat16 wherever it computes, so that float32 is what can be compared there.
    compute: ComputeType = "bfloat16" if asked.topology else "float32"
    results = []
    for case in CASES:
        attention = AttentionConfig(layout="contiguous")
        results.append(measure(replace(case, attention=attention, compute=compute), asked.topology))
        print(results[-1], file=sys.stderr, flush=True)
    libraries = ("jax", "jaxlib", "libtpu") if asked.topology else ("jax", "jaxlib")
    record = {
        "command": shlex.join(["python", "benchmarks/memory_table.py", *sys.argv[1:]]),
        "versions": versions("ringworld", *libraries),
        "machine": machine(),
        "compiled_for": asked.topology or "cpu",
        "model": {
            field.name: getattr(MODEL, field.name)
            for field in fields(MODEL)
            if isinstance(getattr(MODEL, field.name), int)
        },
        "context_tokens": CONTEXT_TOKENS,
        "layers": LAYERS,
        "results": results,
    }
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
