"""JAX's `jax.nn.dot_product_attention` as a peer of `ringworld bench attention`: cuDNN on a GPU, else XLA.

Packed documents are computed one by one, which is the least work that it can do for them. XLA materializes
all scores of a document.

    ringworld bench attention --dtype bfloat16 --head 128 --peers "python benchmarks/peers/jax_dot_product.py"

The last argument, which the command adds, is the problem as JSON.
"""

import json
import platform
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np


def main() -> None:
    """Print what `ringworld.bench.peers.Timing` holds."""
    problem = json.loads(sys.argv[-1])
    if problem["devices"] != 1:
        raise SystemExit("jax.nn.dot_product_attention is compared on one device")
    implementation = "cudnn" if jax.default_backend() == "gpu" else "xla"
    ends = np.cumsum(problem["lengths"])[:-1].tolist()

    def values(q, k, v, dout):
        def out(q, k, v):
            documents = zip(*(jnp.split(x, ends, axis=1) for x in (q, k, v)))
            parts = [
                jax.nn.dot_product_attention(*document, is_causal=True, implementation=implementation)
                for document in documents
            ]
            return jnp.concatenate(parts, axis=1)

        if not problem["backward"]:
            return out(q, k, v)
        result, pullback = jax.vjp(out, q, k, v)
        return result, *pullback(dout)

    heads = problem["heads"], problem["kv_heads"], problem["kv_heads"], problem["heads"]
    arrays = [
        jax.random.normal(key, (problem["batch"], problem["seq"], n, problem["head"]), problem["dtype"])
        for key, n in zip(jax.random.split(jax.random.key(0), 4), heads)
    ]
    program = jax.jit(values).lower(*arrays).compile()
    jax.block_until_ready(program(*arrays))
    taken = []
    for _ in range(problem["repeats"]):
        begun = time.perf_counter()
        jax.block_until_ready(program(*arrays))
        taken.append(time.perf_counter() - begun)
    memory = program.memory_analysis()
    measured = {
        "name": f"jax.nn.dot_product_attention, {implementation}",
        "seconds": statistics.median(taken),
        "peak_bytes": memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes,
        "memory": "what the compiler says that the program needs",
        "versions": {"jax": jax.__version__, "python": platform.python_version()},
    }
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
