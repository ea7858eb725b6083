import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ringworld.attention import xla
from ringworld.attention.config import AttentionConfig
from ringworld.attention.visibility import MaskSpec
from tests.attention import reference

CONFIG = AttentionConfig(block_q_tokens=16, block_kv_tokens=32)


def _run(q, k, v, dout, mask):
    """Forward and backward in the kernel's own arrangement, heads before tokens."""
    part = xla.forward(q, k, v, mask=mask, config=CONFIG)
    delta = jnp.sum(part.out * dout, axis=-1)
    return part, xla.backward(q, k, v, dout, lse=part.lse, delta=delta, mask=mask, config=CONFIG)


def _zeros(seq: int):
    x, tokens = jnp.zeros((1, 1, seq, 8)), jnp.zeros((1, seq), jnp.int32)
    return x, x, x, x, MaskSpec(tokens, tokens, tokens)


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
    program = compiled(jax.jit(_run).lower(*_zeros(seq)))
    sizes = [np.prod([int(n) for n in dims.split(",")]) for dims in re.findall(r"\w+\[([\d,]+)\]", program)]
    assert max(sizes) <= seq * 8 * 2  # blocks of 16 x 32, the inputs, and the list of pairs of blocks


def test_a_few_queries_make_no_copy_of_all_keys():
    def temporaries(q_seq: int, kv_seq: int) -> int:
        q, k = jnp.zeros((1, 2, q_seq, 16)), jnp.zeros((1, 2, kv_seq, 16))
        mask = MaskSpec(*(jnp.zeros((1, n), jnp.int32) for n in (q_seq, q_seq, kv_seq)))
        memory = (
            jax.jit(partial(xla.forward, config=CONFIG)).lower(q, k, k, mask=mask).compile().memory_analysis()
        )
        assert memory is not None
        return memory.temp_size_in_bytes

    # A key takes 128 bytes in all heads, and its order and place in a list of blocks some more.
    assert temporaries(1, 65536) - temporaries(1, 32768) < 32768 * 128 / 4
    assert temporaries(64, 65536) - temporaries(64, 32768) > 32768 * 128


def test_a_few_queries_skip_keys_that_they_do_not_see():
    # What lies far behind would spread, were it computed.
    k = jnp.zeros((1, 1, 65536, 4)).at[:, :, 4096:].set(jnp.nan)
    mask = MaskSpec(
        q_order=jnp.full((1, 1), 63), q_first=jnp.zeros((1, 1), jnp.int32), k_order=jnp.arange(65536)[None]
    )
    part = xla.forward(jnp.zeros((1, 1, 1, 4)), k, k, mask=mask, config=AttentionConfig())
    assert jnp.isfinite(part.out).all()
