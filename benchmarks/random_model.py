"""A model folder of random weights, for benchmarks in which what it says does not matter."""

from pathlib import Path

import jax

from ringworld.artifacts.model_folder import save_model
from ringworld.artifacts.tokenizers import Tokenizers
from ringworld.core.mesh import mesh_of
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.origin import Origin
from ringworld.model.config import Architecture
from ringworld.model.world_model import WorldModel
from ringworld.text.tokenizer import TextTokenizer

WORDS = "a red circle moves to the right of a blue square"


def random_model(folder: Path, architecture: Architecture, *, context_tokens: int = 1024) -> Path:
    """Write a model of text alone, whose words are few, and return its folder."""
    mesh = mesh_of(MeshConfig())
    with jax.set_mesh(mesh):
        model = jax.jit(lambda key: WorldModel.init(architecture, key=key))(jax.random.key(0))
    save_model(
        folder,
        model,
        architecture=architecture,
        tokenizers=Tokenizers(
            text_tokenizer=TextTokenizer.train([f"{WORDS} " * 9], vocab_size=300), frame_tokenizer=None
        ),
        context_tokens=context_tokens,
        generation={},
        origin=Origin(kind="model"),
        mesh=mesh,
    )
    return folder
