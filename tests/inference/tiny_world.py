"""A tiny random world model with its tokenizers, on a ring of one or two devices."""

import dataclasses
import functools

import jax
import numpy as np

from ringworld.attention.config import AttentionConfig
from ringworld.core.mesh import make_mesh
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.sharding import spec
from ringworld.inference.config import GenerationLimits
from ringworld.inference.prompts import Prompts
from ringworld.inference.world import World
from ringworld.model.config import Architecture, Execution
from ringworld.model.decode import GenerationWeights
from ringworld.model.forward import Forward
from ringworld.model.world_model import WorldModel, hidden_states, logits
from ringworld.text.tokenizer import TextTokenizer
from ringworld.text.vocabulary import Vocabulary
from ringworld.vision.config import FrameTokenizerConfig
from ringworld.vision.frame_tokenizer import FrameTokenizer
from ringworld.vision.vqgan import FrameAutoencoder, draw_on_host

TOKENIZER = TextTokenizer.train(["A red circle moves to the right. " * 4], vocab_size=280)
VOCABULARY = Vocabulary(text_size=TOKENIZER.size + TOKENIZER.size % 2, codes=6, codes_per_frame=4)
FRAME_TOKENIZER = FrameTokenizerConfig(
    resolution=4, channels=(4, 4), res_blocks=1, latent=4, codebook_size=6, groups=2
)
ARCHITECTURE = Architecture(
    layers=1,
    embed=16,
    heads=2,
    kv_heads=1,
    head=8,
    mlp=16,
    text_vocab=VOCABULARY.text_size,
    vision_vocab=VOCABULARY.vision_size,
)
EXECUTION = Execution(attention=AttentionConfig(layout="balanced", block_q_tokens=32, block_kv_tokens=32))
FORWARD = Forward.of(ARCHITECTURE, EXECUTION)
FORWARD_TOKENS = 128


@dataclasses.dataclass(frozen=True)
class Made:
    """A world with all that it was made of."""

    world: World
    weights: GenerationWeights
    model: WorldModel
    frame_tokenizer: FrameTokenizer
    mesh: jax.sharding.Mesh


def random_weights(abstract, *, scale: float, mesh: jax.sharding.Mesh):
    """Fill a tree of shapes; drawing them with NumPy spares compiling the init."""
    draws = np.random.default_rng(0)

    def fill(leaf):
        values = draws.normal(scale=scale, size=leaf.shape).astype(leaf.dtype)
        return jax.device_put(values, jax.NamedSharding(mesh, leaf.sharding.spec))

    return jax.tree.map(fill, abstract)


@functools.cache
def make_world(*, ring: int, data: int = 1) -> Made:
    sizes = MeshConfig(ring=ring, data=data)
    mesh = make_mesh(sizes, devices=jax.devices()[: sizes.devices])
    with jax.set_mesh(mesh):
        # Wide enough that the likeliest token is not a matter of rounding.
        model = random_weights(WorldModel.abstract(ARCHITECTURE), scale=0.5, mesh=mesh)
        weights = GenerationWeights.from_model(model, compute=EXECUTION.compute)
    frame_tokenizer = FrameTokenizer(
        FRAME_TOKENIZER, FrameAutoencoder.init(FRAME_TOKENIZER, draw=draw_on_host(1)), batch_frames=4
    )
    world = World.of(
        weights,
        forward=FORWARD,
        prompts=Prompts(TOKENIZER, vocabulary=VOCABULARY, frame_tokenizer=frame_tokenizer),
        mesh=mesh,
        limits=GenerationLimits(max_context_tokens=512, max_sequences=8),
    )
    return Made(world, weights, model, frame_tokenizer, mesh)


@jax.jit
def _full_scores(model, batch, *, forward):
    tokens, order, first = batch
    return logits(hidden_states(model, tokens, order=order, first=first, forward=forward), model.output_head)


def full_scores(made: Made, sequences) -> list[np.ndarray]:
    """Return the scores after every token, by the path that training takes, which has no cache."""
    attention = dataclasses.replace(EXECUTION.attention, layout="contiguous")
    forward = Forward.of(ARCHITECTURE, dataclasses.replace(EXECUTION, attention=attention))
    shape = (len(sequences), FORWARD_TOKENS)
    tokens, order = np.zeros(shape, np.int32), np.full(shape, -1, np.int32)
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence)] = sequence
        order[row, : len(sequence)] = np.arange(len(sequence))
    sharding = jax.NamedSharding(made.mesh, spec("batch", "seq"))
    batch = [jax.device_put(x, sharding) for x in (tokens, order, np.zeros(shape, np.int32))]
    with jax.set_mesh(made.mesh):
        scores = np.asarray(_full_scores(made.model, batch, forward=forward))
    return [scores[row, : len(sequence)] for row, sequence in enumerate(sequences)]
