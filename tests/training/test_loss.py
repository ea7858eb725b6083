"""Packing is exact: the loss and its gradient are those of the same examples, padded one to a row.

So they are on every mesh, in every layout and strategy: the order in which numbers are summed is all that
differs. What a seed draws is compared in `test_world_model.py`.
"""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ringworld.attention.config import LayoutName, Strategy
from ringworld.data.batch import PackedBatch
from ringworld.model.forward import Forward
from ringworld.training.loss import LossOutput, by_position, loss_weights
from ringworld.training.step import loss_and_gradient
from tests.data.packs import pack, padded
from tests.training.meshes import mesh_of, on_devices, some_examples, state_on, with_rows
from tests.training.tiny_run import EXECUTION, MODEL, VOCABULARY, training

CONFIG = training()
ROWS, CONTEXT = 8, 32
CASES: list[tuple[dict[str, int], int, LayoutName, Strategy]] = [
    ({}, 1, "balanced", "ring"),
    ({"ring": 8}, 1, "striped", "ring"),
    ({"data": 2, "ring": 2, "ulysses": 2}, 1, "zigzag", "hybrid"),
    ({"fsdp": 2, "ring": 2, "tensor": 2}, 4, "balanced", "all_gather"),
]
"""Meshes, the number of pieces in which the batch is computed, and how the mesh shares a sequence."""
# A gradient is a float32 sum over 192 tokens, through layers that are sums of up to 32 products, in an order
# that depends on packing and mesh: some 200 roundings of 2 ** -24 each, relative to its largest terms.
ROUNDING = 200 * 2.0**-24


@pytest.fixture(scope="module")
def batches():
    examples = some_examples(count=ROWS, longest=24)
    sizes = dict(context_tokens=CONTEXT, text_size=VOCABULARY.text_size)
    packed = pack(examples, **sizes)
    assert len(packed.lengths) < ROWS
    return {"packed": with_rows(packed, ROWS), "padded": padded(examples, **sizes)}


@functools.cache
def compiled(
    axes: tuple[tuple[str, int], ...] = (),
    pieces: int = 1,
    layout: LayoutName = "balanced",
    strategy: Strategy = "ring",
):
    """Return a function from a batch to loss and gradient on the host; both batches have one shape."""
    mesh = mesh_of(**dict(axes))
    params = state_on(mesh, CONFIG).params
    attention = replace(EXECUTION.attention, layout=layout, strategy=strategy)
    forward = Forward.of(MODEL, replace(EXECUTION, attention=attention))
    run = jax.jit(functools.partial(loss_and_gradient, config=CONFIG, forward=forward))

    def call(batch):
        with jax.set_mesh(mesh):
            placed = on_devices(batch, mesh, pieces=pieces, attention=attention)
            return jax.device_get(run(params, placed))

    return call


def assert_equal_trees(got, expected):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, rtol=ROUNDING, atol=ROUNDING * np.abs(b).max())


@pytest.mark.parametrize(("axes", "pieces", "layout", "strategy"), CASES, ids=str)
@pytest.mark.parametrize("kind", ["packed", "padded"])
def test_packed_and_padded_agree_over_meshes_layouts_and_strategies(
    batches, axes, pieces, layout, strategy, kind
):
    expected = compiled()(batches["padded"])
    assert_equal_trees(compiled(tuple(axes.items()), pieces, layout, strategy)(batches[kind]), expected)


def test_each_modality_counts_by_its_examples_and_half_of_the_loss(batches):
    loss: LossOutput = compiled()(batches["padded"])[0]
    np.testing.assert_allclose(loss.loss, (loss.text_loss + loss.vision_loss) / 2, rtol=1e-6)
    assert loss.text_targets == (batches["packed"].batch.text_weights > 0).sum()
    assert loss.vision_targets == (batches["packed"].batch.vision_weights > 0).sum()
    assert loss.tokens == sum(map(sum, batches["packed"].lengths))
    # All of them stand before the second of `POSITION_STARTS`.
    np.testing.assert_allclose(
        loss.position_losses.sum(axis=1), [loss.text_loss, loss.vision_loss], rtol=1e-6
    )
    assert loss.position_targets.sum(axis=1).tolist() == [loss.text_targets, loss.vision_targets]


def test_what_tokens_have_is_summed_by_where_in_their_examples_they_are():
    """Position is within an example: order 700 of one that begins at 600 is the hundredth."""
    order = np.array([[0, 255, 256, 700, 1_023], [1_024, 16_383, 300_000, -1, 16_384]], np.int32)
    first = np.array([[0, 0, 0, 600, 0], [0, 0, 0, 0, 0]], np.int32)
    counts = np.array([[1, 2, 4, 8, 16], [32, 64, 128, 0, 256]], np.int32)
    batch = PackedBatch(*map(jnp.asarray, (order, order, order, first, order, order)))
    found = jax.jit(lambda a, b: by_position(a, b, batch=batch))(counts, 2 * counts)
    sums = [1 + 2 + 8, 4 + 16, 32, 64, 256, 0, 128]
    assert found.tolist() == [sums, [2 * one for one in sums]]


def test_a_batch_of_text_alone_counts_text_alone(batches):
    padded = batches["padded"]
    no_vision = padded.batch._replace(vision_weights=np.zeros_like(padded.batch.vision_weights))
    loss: LossOutput = compiled()(replace(padded, batch=no_vision))[0]
    np.testing.assert_allclose(loss.loss, compiled()(padded)[0].text_loss, rtol=1e-6)
    assert (loss.vision_loss, loss.vision_targets) == (0, 0)


def test_a_long_example_counts_as_a_short_one(batches):
    weights = loss_weights(
        jax.tree.map(jax.numpy.asarray, batches["padded"].batch), text_weight=3.0, vision_weight=1.0
    )
    text, vision = np.asarray(weights.text.sum(1)), np.asarray(weights.vision.sum(1))
    np.testing.assert_allclose(text[text > 0], 0.75 / (text > 0).sum(), rtol=1e-6)
    np.testing.assert_allclose(vision[vision > 0], 0.25 / (vision > 0).sum(), rtol=1e-6)
