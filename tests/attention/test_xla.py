import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringworld.attention import reference, xla
from ringworld.attention.config import AttentionConfig
from ringworld.attention.visibility import MaskSpec
from ringworld.core.errors import InputError

CONFIG = AttentionConfig(block_q_tokens=16, block_kv_tokens=32)


@partial(jax.jit, static_argnames="config")
def _run(q, k, v, dout, mask, config=CONFIG):
    """Forward and backward in the kernel's own arrangement, heads before tokens."""
    part = xla.forward(q, k, v, mask=mask, config=config)
    delta = jnp.sum(part.out * dout.astype(jnp.float32), axis=-1)
    return part, xla.backward(q, k, v, dout, lse=part.lse, delta=delta, mask=mask, config=config)


def _arrays(example, dtype=jnp.float32):
    arrays = (jnp.asarray(x.swapaxes(1, 2), dtype) for x in (example.q, example.k, example.v, example.dout))
    return *arrays, MaskSpec(q_order=example.order, q_first=example.first, k_order=example.order)


@pytest.mark.parametrize("name", ["unpacked", "packed", "many_heads"])
def test_values_and_gradients_are_those_of_the_oracle(name, request, tolerance):
    example = request.getfixturevalue(name)
    part, gradients = _run(*_arrays(example))
    np.testing.assert_allclose(part.out.swapaxes(1, 2), example.out, rtol=0, atol=tolerance(example.out))
    seen = np.isfinite(example.lse)
    np.testing.assert_allclose(
        np.asarray(part.lse)[seen], example.lse[seen], rtol=0, atol=tolerance(example.lse[seen])
    )
    assert np.all(np.asarray(part.lse)[~seen] == -np.inf)
    for ours, theirs in zip(gradients, example.gradients):
        np.testing.assert_allclose(ours.swapaxes(1, 2), theirs, rtol=0, atol=tolerance(theirs))


def test_padding_gives_zeros_and_zero_gradients(packed):
    part, gradients = _run(*_arrays(packed))
    padding = packed.order == -1
    assert padding[1].all()
    for x in (part.out, *gradients):
        assert not np.asarray(x).swapaxes(1, 2)[padding].any()


def test_bfloat16_stays_within_its_own_rounding(unpacked, tolerance):
    part, gradients = _run(*_arrays(unpacked, jnp.bfloat16))
    eps = float(jnp.finfo(jnp.bfloat16).eps)
    assert part.out.dtype == gradients.dk.dtype == jnp.float32
    np.testing.assert_allclose(
        part.out.swapaxes(1, 2), unpacked.out, rtol=0, atol=tolerance(unpacked.out, eps=eps)
    )
    for ours, theirs in zip(gradients, unpacked.gradients):
        np.testing.assert_allclose(ours.swapaxes(1, 2), theirs, rtol=0, atol=tolerance(theirs, eps=eps))


def test_blocks_with_nothing_visible_are_never_computed(unpacked):
    # Two examples, cut where blocks end; NaN in the second would spread through any product with it.
    q, k, v, dout, mask = _arrays(unpacked)
    poisoned = (x.at[:, :, 64:].set(jnp.nan) for x in (q, k, v, dout))
    part, gradients = _run(
        *poisoned, mask._replace(q_first=np.where(mask.q_order < 64, 0, 64).astype(np.int32))
    )
    for x in (part.out, *gradients):
        assert np.isfinite(x[:, :, :64]).all()
        assert np.isnan(x[:, :, 64:]).all()


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_order_of_tokens_gives_the_same_result_in_that_order(data, packed, tolerance):
    perm = np.array(data.draw(st.permutations(range(packed.order.shape[1]))))
    q, k, v, dout, mask = _arrays(packed)
    shuffled = (x[:, :, perm] for x in (q, k, v, dout))
    part, gradients = _run(*shuffled, MaskSpec(*(x[:, perm] for x in mask)))
    for ours, theirs in zip((part.out, *gradients), (packed.out, *packed.gradients)):
        np.testing.assert_allclose(ours.swapaxes(1, 2), theirs[:, perm], rtol=0, atol=tolerance(theirs))


@pytest.mark.parametrize(
    ("batch", "q_seq", "kv_seq", "block"), [(1, 1, 1, 1), (3, 1, 33, 4), (4, 2, 33, 64), (3, 5, 7, 2)]
)
def test_blocks_need_not_divide_anything(batch, q_seq, kv_seq, block):
    rng = np.random.default_rng(0)
    q = rng.normal(size=(batch, q_seq, 2, 4))
    k, v = rng.normal(size=(2, batch, kv_seq, 1, 4))
    k_order = rng.permuted(np.tile(np.arange(kv_seq, dtype=np.int32), (batch, 1)), axis=1)
    q_order = rng.integers(-1, kv_seq, size=(batch, q_seq), dtype=np.int32)
    q_first = np.maximum(q_order - 3, 0)
    expected, _ = reference.forward(q, k, v, q_order=q_order, q_first=q_first, k_order=k_order)
    config = AttentionConfig(block_q_tokens=block, block_kv_tokens=block)
    part = jax.jit(partial(xla.forward, config=config))(
        *(jnp.asarray(x.swapaxes(1, 2), jnp.float32) for x in (q, k, v)),
        mask=MaskSpec(*(jnp.asarray(x) for x in (q_order, q_first, k_order))),
    )
    np.testing.assert_allclose(part.out.swapaxes(1, 2), expected, rtol=0, atol=1e-6)


def test_no_array_of_sequence_by_sequence_is_made(compiled):
    seq = 2048
    x, tokens = jnp.zeros((1, 1, seq, 8)), jnp.zeros((1, seq), jnp.int32)
    program = compiled(_run.lower(x, x, x, x, MaskSpec(tokens, tokens, tokens), config=CONFIG))
    sizes = [np.prod([int(n) for n in dims.split(",")]) for dims in re.findall(r"\w+\[([\d,]+)\]", program)]
    assert max(sizes) <= seq * 8 * 2  # blocks of 16 x 32, the inputs, and the list of pairs of blocks


def test_empty_blocks_are_refused():
    with pytest.raises(InputError, match="block_kv_tokens"):
        AttentionConfig(block_kv_tokens=0)
