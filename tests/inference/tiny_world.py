"""A tiny random world model, its tokenizers, and an engine on a ring of one or two devices."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from ringworld.attention.config import AttentionConfig
from ringworld.core.mesh import make_mesh
from ringworld.core.mesh_config import MeshConfig
from ringworld.inference.config import EngineConfig
from ringworld.inference.engine import Engine
from ringworld.model.config import ModelConfig
from ringworld.model.world_model import WorldModel
from ringworld.text.tokenizer import TextTokenizer
from ringworld.text.vocabulary import Vocabulary
from ringworld.vision.config import FrameTokenizerConfig
from ringworld.vision.frame_tokenizer import FrameTokenizer
from ringworld.vision.vqgan import FrameAutoencoder, draw_on_host

TOKENIZER = TextTokenizer.train(["A red circle moves to the right. " * 4], vocab_size=280)
VOCABULARY = Vocabulary(text_size=TOKENIZER.size + TOKENIZER.size % 2, codes=6, codes_per_frame=4)
FRAMES = FrameTokenizerConfig(
    resolution=4, hidden=4, channel_multipliers=(1, 1), res_blocks=1, latent=4, codebook_size=6, groups=2
)
CONFIG = ModelConfig(
    layers=1,
    embed=16,
    heads=2,
    kv_heads=1,
    head=8,
    mlp=16,
    text_vocab=VOCABULARY.text_size,
    vision_vocab=VOCABULARY.vision_size,
    attention=AttentionConfig(layout="balanced", block_q_tokens=32, block_kv_tokens=32),
)


class Packed(NamedTuple):
    """What a forward pass reads, each [batch, seq]."""

    tokens: Any
    order: Any
    first: Any


@dataclasses.dataclass(frozen=True)
class World:
    """An engine with all that it was made of."""

    engine: Engine
    model: WorldModel
    frames: FrameTokenizer
    mesh: jax.sharding.Mesh


def random_weights(abstract, *, scale: float, mesh: jax.sharding.Mesh):
    """Fill a tree of shapes; drawing them with NumPy spares compiling the init."""
    draws = np.random.default_rng(0)

    def fill(leaf):
        values = draws.normal(scale=scale, size=leaf.shape).astype(leaf.dtype)
        return jax.device_put(values, jax.NamedSharding(mesh, leaf.sharding.spec))

    return jax.tree.map(fill, abstract)


@functools.cache
def make_world(*, ring: int, data: int = 1) -> World:
    sizes = MeshConfig(ring=ring, data=data)
    mesh = make_mesh(sizes, devices=jax.devices()[: sizes.devices])
    with jax.set_mesh(mesh):
        # Wide enough that the likeliest token is not a matter of rounding.
        model = random_weights(WorldModel.abstract(CONFIG), scale=0.5, mesh=mesh)
    frames = FrameTokenizer(FRAMES, FrameAutoencoder.init(FRAMES, draw=draw_on_host(1)), batch_frames=4)
    engine = Engine(
        model,
        config=CONFIG,
        tokenizer=TOKENIZER,
        vocabulary=VOCABULARY,
        frame_tokenizer=frames,
        mesh=mesh,
        limits=EngineConfig(max_context_tokens=512, max_rows=8),
    )
    return World(engine, model, frames, mesh)
