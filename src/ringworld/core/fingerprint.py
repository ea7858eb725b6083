"""One short name for the values of many arrays, wherever they lie."""

import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped, UInt32


def fingerprint(tree: Any) -> str:
    """Return 16 hexadecimal digits that change with a value, a shape or a name, but not with the mesh.

    Each array is read once and summed up where it lies; only the sums travel. Call it under `jax.set_mesh`
    for arrays that are spread.
    """
    # One at a time: XLA on a CPU lets collectives of programs that run at once wait for each other for ever.
    named = [
        (jax.tree_util.keystr(path), str(leaf.dtype), leaf.shape, int(_checksum(leaf)))
        for path, leaf in jax.tree.leaves_with_path(tree)
    ]
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:16]


@jax.jit
def _checksum(leaf: Shaped[Array, "..."]) -> UInt32[Array, ""]:
    """Sum the bits of all values, each times an odd number of its index, modulo 2**32.

    Such a sum is the same in any order, and a single value that changes always changes it.
    """
    bits = jax.lax.bitcast_convert_type(leaf, f"uint{8 * leaf.dtype.itemsize}").astype(jnp.uint32)
    for dimension, size in enumerate(leaf.shape):
        odd = _odd_numbers(size, seed=dimension).reshape(-1, *(1,) * (bits.ndim - 1))
        bits = (bits * odd).sum(0, dtype=jnp.uint32)
    return bits


def _odd_numbers(count: int, *, seed: int) -> UInt32[np.ndarray, " {count}"]:
    """Return one for each index and, by `seed`, others in each dimension: a transposed matrix differs."""
    indices = np.arange(count, dtype=np.uint64) + np.uint64(1 + seed * 0x51ED270B)
    mixed = indices * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(32)
    return mixed.astype(np.uint32) | np.uint32(1)
