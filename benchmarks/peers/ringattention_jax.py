"""LWM's `ringattention` 0.1.2 as a peer of `ringworld bench attention`, over simulated CPU devices.

It needs a separate environment, since it does not run on a current JAX:

    python3.11 -m venv runs/peers/ringattention
    runs/peers/ringattention/bin/pip install -r benchmarks/peers/ringattention_jax.txt
    ringworld bench attention --devices 8 \
        --peers "runs/peers/ringattention/bin/python benchmarks/peers/ringattention_jax.py"

Its documentation recommends chunks as large as possible; the best of several sizes counts. The last argument,
which the command adds, is the problem as JSON.
"""

import json
import os
import platform
import statistics
import sys
import time
from functools import partial
from importlib.metadata import version

problem = json.loads(sys.argv[-1])
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={problem['devices']}"

import jax  # noqa: E402 (reads XLA_FLAGS)
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.experimental.shard_map import shard_map  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402
from ringattention import ringattention_jax as ring_attention  # noqa: E402

CHUNKS = (128, 256, 512)  # larger ones were slower
SPEC = PartitionSpec(None, "sp", None, None)


def main() -> None:
    """Print what `ringworld.bench.peers.Timing` holds, for the fastest chunk."""
    if problem["heads"] != problem["kv_heads"]:
        raise SystemExit("ringattention has no grouped queries")
    share = problem["seq"] // problem["devices"]
    tried = [measure(chunk) for chunk in CHUNKS if share % chunk == 0]
    print(json.dumps(min(tried, key=lambda measured: measured["seconds"])))


def measure(chunk: int) -> dict:
    """Compile and time it with one size of chunks."""
    mesh = Mesh(np.array(jax.devices()), ("sp",))
    attend = shard_map(
        partial(
            ring_attention,
            axis_name="sp",
            float32_logits=True,
            blockwise_kwargs={
                "causal_block_size": 1,
                "deterministic": True,
                "dropout_rng": None,
                "attn_pdrop": 0.0,
                "query_chunk_size": chunk,
                "key_chunk_size": chunk,
                "policy": jax.checkpoint_policies.nothing_saveable,
                "dtype": jnp.dtype(problem["dtype"]),
                "precision": None,
                "prevent_cse": True,
            },
        ),
        mesh=mesh,
        in_specs=(SPEC, SPEC, SPEC, PartitionSpec(), PartitionSpec(), PartitionSpec()),
        out_specs=SPEC,
        check_rep=False,
    )
    sharding = NamedSharding(mesh, SPEC)
    shape = problem["batch"], problem["seq"], problem["heads"], problem["head"]
    q, k, v, dout = (
        jax.device_put(jax.random.normal(key, shape).astype(problem["dtype"]), sharding)
        for key in jax.random.split(jax.random.key(0), 4)
    )
    documents = np.repeat(np.arange(len(problem["lengths"]), dtype=np.int32), problem["lengths"])
    segment_ids = None if len(problem["lengths"]) == 1 else np.tile(documents, (problem["batch"], 1))

    def values(q, k, v, dout):
        def out(q, k, v):
            return attend(q, k, v, None, segment_ids, None)

        if not problem["backward"]:
            return out(q, k, v)
        result, pullback = jax.vjp(out, q, k, v)
        return result, *pullback(dout)

    program = jax.jit(values).lower(q, k, v, dout).compile()
    jax.block_until_ready(program(q, k, v, dout))
    taken = []
    for _ in range(problem["repeats"]):
        begun = time.perf_counter()
        jax.block_until_ready(program(q, k, v, dout))
        taken.append(time.perf_counter() - begun)
    memory = program.memory_analysis()
    return {
        "name": f"ringattention, chunks of {chunk}",
        "seconds": statistics.median(taken),
        "peak_bytes": memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes,
        "memory": "what the compiler says that the program needs",
        "versions": {
            "ringattention": version("ringattention"),
            "jax": jax.__version__,
            "python": platform.python_version(),
        },
    }


if __name__ == "__main__":
    main()
