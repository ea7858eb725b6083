"""Ring attention over eight simulated devices, against attention over all keys at once.

python examples/attention_on_eight_devices.py
"""

import jax
import numpy as np

import ringworld as rw

jax.config.update("jax_num_cpu_devices", 8)

draw = np.random.default_rng(0)
lengths = [100, 28]  # two documents in one sequence of 128 tokens, each seeing only itself
q = draw.normal(size=(1, 128, 4, 32)).astype(np.float32)
k, v = (draw.normal(size=(1, 128, 2, 32)).astype(np.float32) for _ in range(2))

out = rw.attention(q, k, v, lengths=lengths)
print(f"{out.shape} over {jax.device_count()} devices")


def dense(q, k, v):
    """Attend with a mask of all pairs, in float64."""
    document = np.repeat(np.arange(len(lengths)), lengths)
    seen = (document[:, None] == document) & np.tri(len(document), dtype=bool)
    k, v = (np.repeat(x, 2, axis=2) for x in (k, v))
    scores = np.einsum("bqhd,bkhd->bhqk", q, k, dtype=np.float64) / np.sqrt(q.shape[-1])
    weights = np.exp(np.where(seen, scores, -np.inf))
    return np.einsum("bhqk,bkhd->bqhd", weights / weights.sum(-1, keepdims=True), v)


worst = np.abs(out - dense(q, k, v)).max()
print(f"largest difference: {worst:.1e}")
assert worst < 1e-5
