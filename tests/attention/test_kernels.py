"""What every kernel must do. A new one adds its line to `KERNELS`, and its limits, if any, to `_serves`."""

import functools
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ringworld.attention.backends import kernel_for
from ringworld.attention.config import AttentionConfig
from ringworld.attention.merge import merge
from ringworld.attention.visibility import MaskSpec
from ringworld.core.errors import InputError
from ringworld.core.mesh import make_mesh
from ringworld.core.mesh_config import MeshConfig
from tests.attention import reference
from tests.attention.mosaic_gpu import INTERPRETER, compiling_once

KERNELS = [
    pytest.param(AttentionConfig(kernel="xla", block_q_tokens=16, block_kv_tokens=32), id="xla"),
    pytest.param(
        AttentionConfig(
            kernel="pallas_triton", pallas_mode="interpreted", block_q_tokens=16, block_kv_tokens=32
        ),
        id="pallas_triton",
    ),
    pytest.param(
        AttentionConfig(
            kernel="pallas_tpu", pallas_mode="interpreted", block_q_tokens=128, block_kv_tokens=128
        ),
        id="pallas_tpu",
    ),
    pytest.param(
        AttentionConfig(
            kernel="pallas_hopper", pallas_mode="interpreted", block_q_tokens=128, block_kv_tokens=128
        ),
        id="pallas_hopper",
    ),
]
HEAD = 64

every_kernel = pytest.mark.parametrize("config", KERNELS)


@functools.partial(jax.jit, static_argnames="config")
def _forward(q, k, v, mask, config):
    return kernel_for(config, queries=q).forward(q, k, v, mask=mask, config=config, **_interpreted(config))


@functools.partial(jax.jit, static_argnames="config")
def _backward(q, k, v, dout, lse, delta, mask, config):
    options = {"lse": lse, "delta": delta, "mask": mask, "config": config} | _interpreted(config)
    return kernel_for(config, queries=q).backward(q, k, v, dout, **options)


def _interpreted(config: AttentionConfig) -> dict[str, Any]:
    return {"interpreter": INTERPRETER} if config.kernel == "pallas_hopper" else {}


@pytest.fixture(scope="module", autouse=True)
def _compiled_once():
    with compiling_once():
        yield


class Tokens(NamedTuple):
    """The integers of a `MaskSpec`, on the host."""

    q_order: np.ndarray
    q_first: np.ndarray
    k_order: np.ndarray

    @property
    def spec(self) -> MaskSpec:
        return MaskSpec(*(jnp.asarray(x) for x in self))


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """Arrays [rows, tokens, heads, head] with which a kernel is called, and how far it may be off.

    Every result is a sum of terms: probabilities times values, say. `allowed` multiplies the sum of the sizes
    of the terms with the relative error of a term. In float32 that is some roundings of the sum, which walk
    as the root of its length, and of the scores, which the exponential turns into relative errors; and what
    is smaller than the smallest normal number may vanish. With bfloat16 inputs, which are exact here, a
    probability or the gradient of a score is rounded once more, by half of bfloat16's eps.
    """

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    dout: np.ndarray
    mask: Tokens

    @property
    def dtype(self) -> np.dtype:
        return self.q.dtype

    @cached_property
    def expected(self) -> dict[str, np.ndarray]:
        q, k, v, dout = self._float64
        out, lse = reference.forward(q, k, v, **self.mask._asdict())
        dq, dk, dv = reference.backward(q, k, v, dout, **self.mask._asdict())
        return {"out": out, "lse": lse, "dq": dq, "dk": dk, "dv": dv}

    @cached_property
    def delta(self) -> np.ndarray:
        return np.einsum("bqhd,bqhd->bhq", self.expected["out"], self._float64[3])

    @cached_property
    def allowed(self) -> dict[str, np.ndarray]:
        q, k, v, dout = self._float64
        group, scale = q.shape[2] // k.shape[2], q.shape[3] ** -0.5
        k_all, v_all = np.repeat(k, group, axis=2), np.repeat(v, group, axis=2)
        seen = reference.mask(*self.mask)
        scores = np.where(seen, np.einsum("bqhd,bkhd->bhqk", q, k_all) * scale, 0)
        lse = self.expected["lse"]
        p = np.where(seen, np.exp(scores - np.where(np.isfinite(lse), lse, 0)[..., None]), 0)
        dp, dp_size = (
            np.einsum("bqhd,bkhd->bhqk", a, b) for a, b in ((dout, v_all), (abs(dout), abs(v_all)))
        )
        ds_size = p * (dp_size + np.sum(p * dp_size, axis=-1, keepdims=True))

        longest = max(q.shape[1], k.shape[1], q.shape[3])
        error = 4 * float(np.finfo(np.float32).eps) * (np.sqrt(longest) + np.abs(scores).max())
        rounding = float(jnp.finfo(jnp.bfloat16).eps) / 2 if self.dtype == jnp.bfloat16 else 0.0
        vanishing = seen * float(np.finfo(np.float32).tiny)
        dweights = p * (error + rounding) + vanishing
        ds = error * ds_size + rounding * p * np.abs(dp - self.delta[..., None]) + vanishing * dp_size

        def over_group(x: np.ndarray) -> np.ndarray:
            return x.reshape(*k.shape[:3], group, -1).sum(axis=3)

        return {
            "out": np.einsum("bhqk,bkhd->bqhd", dweights, abs(v_all)),
            "lse": np.full_like(lse, error),
            "dq": np.einsum("bhqk,bkhd->bqhd", ds, abs(k_all)) * scale,
            "dk": over_group(np.einsum("bhqk,bqhd->bkhd", ds, abs(q))) * scale,
            "dv": over_group(np.einsum("bhqk,bqhd->bkhd", dweights, abs(dout))),
        }

    @property
    def _float64(self) -> tuple[np.ndarray, ...]:
        return tuple(x.astype(np.float64) for x in (self.q, self.k, self.v, self.dout))


def _serves(config: AttentionConfig, *, head: int, dtype: np.dtype) -> bool:
    return config.kernel != "pallas_hopper" or (dtype == jnp.bfloat16 and head <= 128)


def _case(
    config: AttentionConfig, mask: Tokens, *, heads=2, kv_heads=1, head=HEAD, dtype=None, q_scale=1.0
) -> Case:
    """Return random arrays, in float32 where the kernel serves it."""
    if dtype is None:
        dtype = jnp.float32 if _serves(config, head=head, dtype=jnp.float32) else jnp.bfloat16
    rng = np.random.default_rng(0)
    rows, q_seq, kv_seq = *mask.q_order.shape, mask.k_order.shape[1]
    q, dout = (rng.normal(size=(rows, q_seq, heads, head)) for _ in range(2))
    k, v = (rng.normal(size=(rows, kv_seq, kv_heads, head)) for _ in range(2))
    return Case(
        q=(q * q_scale).astype(dtype),
        k=k.astype(dtype),
        v=v.astype(dtype),
        dout=dout.astype(dtype),
        mask=mask,
    )


def _check(case: Case, config: AttentionConfig, *, shards: int = 1) -> None:
    """Run a kernel over the keys in so many equal shards, as a ring would, against the oracle."""
    q, dout = (jnp.asarray(x.swapaxes(1, 2)) for x in (case.q, case.dout))
    lse, delta = (jnp.asarray(x, jnp.float32) for x in (case.expected["lse"], case.delta))
    parts, gradients = [], []
    for shard in np.split(np.arange(case.k.shape[1]), shards):
        k, v = (jnp.asarray(x[:, shard].swapaxes(1, 2)) for x in (case.k, case.v))
        mask = case.mask._replace(k_order=case.mask.k_order[:, shard]).spec
        parts.append(_forward(q, k, v, mask, config))
        gradients.append(_backward(q, k, v, dout, lse, delta, mask, config))
    out, lse = functools.reduce(merge, parts)
    dq = functools.reduce(jnp.add, (part.dq for part in gradients))
    dk, dv = (jnp.concatenate(xs, axis=2) for xs in zip(*((part.dk, part.dv) for part in gradients)))
    for name, ours in {"out": out, "lse": lse, "dq": dq, "dk": dk, "dv": dv}.items():
        assert ours.dtype == jnp.float32, name
        ours = np.asarray(ours) if name == "lse" else np.asarray(ours.swapaxes(1, 2))
        expected, allowed = case.expected[name], case.allowed[name]
        # A query that sees nothing, and a key that nothing sees: exactly -inf and 0, and never NaN.
        fixed = (expected == -np.inf) | (allowed == 0)
        np.testing.assert_array_equal(ours[fixed], expected[fixed], err_msg=name)
        off = np.abs(ours[~fixed] - expected[~fixed]) / allowed[~fixed]
        assert np.all(off <= 1), f"{name}: {off.max():.3g} times what is allowed"


def _block(config: AttentionConfig) -> int:
    return max(config.most_q_tokens(), config.block_kv_tokens)


def _length(config: AttentionConfig) -> int:
    """Return some blocks and a half; the interpreter of Mosaic GPU takes seconds for each."""
    return (3 if config.kernel == "pallas_hopper" else 5) * _block(config) // 2


def _tokens(size: int, *lengths: int) -> tuple[np.ndarray, np.ndarray]:
    """Return order and first of examples of these lengths and then padding."""
    order, first = np.full(size, -1, np.int32), np.zeros(size, np.int32)
    used = sum(lengths)
    order[:used] = np.arange(used)
    first[:used] = np.repeat(np.cumsum(lengths) - lengths, lengths)
    return order, first


def _self_attention(order: np.ndarray, first: np.ndarray) -> Tokens:
    """Return the mask of one row, where rows are not what is tested."""
    return Tokens(q_order=order[None], q_first=first[None], k_order=order[None])


def _whole(n: int) -> Tokens:
    return _self_attention(*_tokens(n, n))


def _packed(n: int) -> Tokens:
    """Return examples of many lengths and padding."""
    return _self_attention(*_tokens(n, 1, n // 2, 7, n // 4))


def _packed_and_empty(n: int) -> Tokens:
    """Return that, and a row of nothing but padding."""
    return Tokens(*(np.concatenate(x) for x in zip(_packed(n), _self_attention(*_tokens(n)))))


def _striped(n: int) -> Tokens:
    stripes = np.arange(n).reshape(-1, 4).T.reshape(-1)
    return Tokens(*(x[:, stripes] for x in _self_attention(*_tokens(n, n // 3, n // 2))))


def _shuffled(n: int) -> Tokens:
    shuffle = np.random.default_rng(1).permutation(n)
    return Tokens(*(x[:, shuffle] for x in _packed_and_empty(n)))


def _shards(n: int, *, queries: int, keys: int) -> Tokens:
    """Return two shards of n tokens out of two; an example begins in the first and ends in the second."""
    order, first = _tokens(2 * n, n // 2, n, n // 4)
    q, k = (slice(shard * n, (shard + 1) * n) for shard in (queries, keys))
    return Tokens(order[q][None], first[q][None], order[k][None])


PATTERNS = {
    "one_example": _whole,
    "packed": _packed_and_empty,
    "striped": _striped,
    "shuffled": _shuffled,
    "all_of_the_past": lambda n: _whole(n)._replace(q_order=np.arange(n, 2 * n, dtype=np.int32)[None]),
    "part_of_the_past": functools.partial(_shards, queries=1, keys=0),
    "nothing_of_the_future": functools.partial(_shards, queries=0, keys=1),
}


@every_kernel
@pytest.mark.parametrize("pattern", PATTERNS)
def test_values_and_gradients_are_those_of_the_oracle(pattern, config):
    _check(_case(config, PATTERNS[pattern](_length(config))), config)


@every_kernel
def test_shards_of_the_keys_add_up_to_the_whole(config):
    n = _block(config)
    whole = _striped(2 * n)
    _check(
        _case(config, whole._replace(q_order=whole.q_order[:, n:], q_first=whole.q_first[:, n:])),
        config,
        shards=2,
    )


@every_kernel
def test_keys_are_shared_by_a_group_of_heads(config):
    _check(_case(config, _packed(_length(config)), heads=4, kv_heads=2), config)


@pytest.mark.parametrize(("pattern", "dtype"), [("packed", jnp.float32), ("shuffled", jnp.bfloat16)])
def test_heads_that_xla_computes_one_by_one_are_those_of_the_oracle(pattern, dtype):
    # Where devices share a CPU: the scores of one head fill what is allowed.
    config = AttentionConfig(kernel="xla")
    with jax.set_mesh(make_mesh(MeshConfig(ring=2), devices=jax.devices()[:2], shardings="inferred")):
        _check(_case(config, PATTERNS[pattern](600), heads=4, kv_heads=2, dtype=dtype), config)


@every_kernel
@pytest.mark.parametrize(
    ("head", "dtype"),
    [(80, jnp.float32), (80, jnp.bfloat16), (128, jnp.bfloat16), (256, jnp.float32), (256, jnp.bfloat16)],
)
def test_head_sizes_and_types(head, dtype, config):
    if not _serves(config, head=head, dtype=dtype):
        with pytest.raises(InputError) as refused:
            kernel_for(config, queries=jnp.zeros((1, 1, 1, head), dtype))
        assert (refused.value.field, refused.value.value) == ("kernel", config.kernel)
        return
    _check(_case(config, _packed(_length(config)), head=head, dtype=dtype), config)


@every_kernel
@pytest.mark.parametrize("lengths", [(1, 67), (67, 1), (101, 67)], ids=str)
def test_lengths_need_not_be_equal_nor_fill_blocks(lengths, config):
    q_seq, kv_seq = lengths
    rng = np.random.default_rng(0)
    k_order = rng.permutation(kv_seq).astype(np.int32)[None]
    q_order = rng.integers(-1, kv_seq, size=(1, q_seq), dtype=np.int32)
    mask = Tokens(q_order=q_order, q_first=np.maximum(q_order - 20, 0), k_order=k_order)
    _check(_case(config, mask, heads=2, kv_heads=2), config)


@every_kernel
def test_scores_whose_exponential_overflows_are_computed(config):
    case = _case(config, _whole(_length(config)), q_scale=40.0)
    assert case.expected["lse"].max() > np.log(np.finfo(np.float32).max)
    _check(case, config)


@every_kernel
def test_blocks_in_which_nothing_is_visible_are_never_computed(config):
    # Two examples, cut where blocks end; NaN in the second would spread through any product with it.
    half = _block(config)
    case = _case(config, _self_attention(*_tokens(2 * half, half, half)))
    poisoned = {name: getattr(case, name).copy() for name in ("q", "k", "v", "dout")}
    for x in poisoned.values():
        x[:, half:] = np.nan
    q, k, v, dout = (jnp.asarray(x.swapaxes(1, 2)) for x in poisoned.values())
    mask = case.mask.spec
    part = _forward(q, k, v, mask, config)
    lse, delta = (jnp.asarray(x, jnp.float32) for x in (case.expected["lse"], case.delta))
    gradients = _backward(q, k, v, dout, lse, delta, mask, config)
    for x in (part.out, *gradients):
        assert np.isfinite(x[:, :, :half]).all()
        assert np.isnan(x[:, :, half:]).all()
