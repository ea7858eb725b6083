"""A small model of each family, with every weight away from the value it begins with."""

from dataclasses import replace
from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh

from ringworld.model.config import Architecture
from ringworld.model.world_model import WorldModel

LLAMA = Architecture(layers=2, embed=32, heads=4, kv_heads=2, head=8, mlp=48, text_vocab=40, vision_vocab=24)
FAMILIES = {
    "llama-tied": replace(LLAMA, tied=True),
    "mistral": replace(LLAMA, family="mistral", window_tokens=5),
    "qwen2": replace(LLAMA, family="qwen2"),
    "qwen3": replace(LLAMA, family="qwen3", tied=True),
}


def drawn(architecture: Architecture, *, mesh: Mesh) -> WorldModel:
    """Norms begin at one and biases at zero, which would hide one that is read from the wrong place."""
    with jax.set_mesh(mesh):
        model = jax.jit(partial(WorldModel.init, architecture))(key=jax.random.key(1))
    return jax.tree.map(
        lambda x: jax.device_put(
            np.asarray(x) + np.sin(np.arange(x.size, dtype=np.float32)).reshape(x.shape) / 8, x.sharding
        ),
        model,
    )
