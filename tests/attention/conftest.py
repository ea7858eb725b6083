"""Packed batches with their answers from the oracle, and attention to them on a mesh, for every test."""

import re
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jaxtyping import Float64

from ringworld.attention.attend import attention
from ringworld.attention.config import AttentionConfig
from ringworld.attention.layouts import place
from ringworld.core.mesh import make_mesh
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.sharding import spec
from tests.attention import reference

SEQ, HEADS, KV_HEADS, HEAD = 128, 4, 2, 16
BLOCKS_OF_16 = AttentionConfig(block_q_tokens=16, block_kv_tokens=16)
DIMENSIONS = {
    "q": ("batch", "seq", "heads", "head"),
    "k": ("batch", "seq", "kv_heads", "head"),
    "v": ("batch", "seq", "kv_heads", "head"),
    "dout": ("batch", "seq", "heads", "head"),
    "order": ("batch", "seq"),
    "first": ("batch", "seq"),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """Random queries, keys, values and cotangents in float32, with order and first of each token."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    dout: np.ndarray
    order: np.ndarray
    first: np.ndarray
    lengths: list[list[int]]
    """Of each row, the tokens of its documents."""

    @cached_property
    def out(self) -> np.ndarray:
        return self._forward[0]

    @cached_property
    def lse(self) -> np.ndarray:
        return self._forward[1]

    @property
    def results(self) -> tuple[np.ndarray, ...]:
        """What attention must give: out, dq, dk, dv."""
        return self.out, *self.gradients

    @cached_property
    def gradients(self) -> tuple[Float64[np.ndarray, "..."], ...]:
        return reference.backward(*self._float64(self.q, self.k, self.v, self.dout), **self._spec)

    @cached_property
    def _forward(self) -> tuple[np.ndarray, np.ndarray]:
        return reference.forward(*self._float64(self.q, self.k, self.v), **self._spec)

    @property
    def _spec(self) -> dict[str, np.ndarray]:
        return {"q_order": self.order, "q_first": self.first, "k_order": self.order}

    @staticmethod
    def _float64(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(x.astype(np.float64) for x in arrays)


def make_example(rows: list[list[int]], *, seed: int = 0, kv_heads: int = KV_HEADS) -> Example:
    """Return a batch whose rows hold examples of these lengths, and then padding."""
    rng = np.random.default_rng(seed)
    q, dout = (rng.normal(size=(len(rows), SEQ, HEADS, HEAD)).astype(np.float32) for _ in range(2))
    k, v = (rng.normal(size=(len(rows), SEQ, kv_heads, HEAD)).astype(np.float32) for _ in range(2))
    order = np.full((len(rows), SEQ), -1, np.int32)
    first = np.zeros((len(rows), SEQ), np.int32)
    for row, lengths in enumerate(rows):
        used = sum(lengths)
        order[row, :used] = np.arange(used)
        first[row, :used] = np.repeat(np.cumsum(lengths) - lengths, lengths)
    return Example(q=q, k=k, v=v, dout=dout, order=order, first=first, lengths=rows)


@pytest.fixture(scope="session")
def unpacked() -> Example:
    """Two rows of one causal example each."""
    return make_example([[SEQ], [SEQ]])


@pytest.fixture(scope="session")
def packed() -> Example:
    """A row of examples of many lengths and padding, and a row of nothing but padding."""
    return make_example([[1, 40, 7, 50, 3], []], seed=1)


@pytest.fixture(scope="session")
def many_heads() -> Example:
    """As many heads for keys as for queries."""
    return make_example([[SEQ], [30, 60]], seed=2, kv_heads=HEADS)


@pytest.fixture(scope="session")
def tolerance():
    """Rounding errors of a sum of SEQ terms walk as sqrt(SEQ), each at most eps of the largest value."""

    def allowed(expected: np.ndarray, *, eps: float = float(np.finfo(np.float32).eps)) -> float:
        return 4 * eps * np.sqrt(SEQ) * float(np.abs(expected).max())

    return allowed


@pytest.fixture(scope="session")
def compiled():
    """Compile to the text of a program, whose code within a device need not be quick."""

    def text(lowered: jax.stages.Lowered) -> str:
        program = lowered.compile(compiler_options={"xla_backend_optimization_level": "0"}).as_text()
        assert program is not None
        return program

    return text


def _mesh(axes: dict[str, int]) -> Mesh:
    config = MeshConfig(**axes)
    return make_mesh(config, devices=jax.devices()[: config.devices])


@partial(jax.jit, static_argnames="config")
def _value_and_gradients(q, k, v, dout, order, first, config):
    out, pullback = jax.vjp(partial(attention, order=order, first=first, config=config), q, k, v)
    return out, *pullback(dout)


@pytest.fixture(scope="session")
def attend():
    """Return out, dq, dk, dv of attention on a mesh, in the order of the packed sequence.

    One program serves all layouts.
    """

    def run(example: Example, axes: dict[str, int], *, dtype=jnp.float32, **options: Any) -> list[np.ndarray]:
        config, mesh = replace(BLOCKS_OF_16, **options), _mesh(axes)
        members = mesh.shape["ring"] * mesh.shape["ulysses"]
        rows, seq = example.order.shape
        options = {"seq": seq, "members": members, "chunk_tokens": config.block_q_tokens}
        placed = [place(config.layout, lengths=lengths, **options) for lengths in example.lengths]
        perm = np.stack([one.token_of_slot() for one in placed])
        row = np.arange(rows)[:, None]
        with jax.set_mesh(mesh):
            arrays = {}
            for name, dimensions in DIMENSIONS.items():
                x = getattr(example, name)[row, perm]
                kind = x.dtype if x.dtype == np.int32 else dtype
                arrays[name] = jax.device_put(jnp.asarray(x, kind), NamedSharding(mesh, spec(*dimensions)))
            results = _value_and_gradients(**arrays, config=replace(config, layout="contiguous"))
            assert results[0].dtype == dtype
            assert results[0].sharding == arrays["q"].sharding
        return [np.asarray(x, np.float32)[row, np.argsort(perm, axis=1)] for x in results]

    return run


@pytest.fixture(scope="session")
def abstract():
    """Return the arguments of attention without their values, cut over a mesh or over none."""

    def structs(
        mesh: Mesh | AbstractMesh | None,
        *,
        batch: int = 2,
        seq: int = 64,
        heads: int = 4,
        kv_heads: int = 2,
        head: int = 8,
        dtype=jnp.float32,
        kv_dtype=None,
    ) -> dict[str, jax.ShapeDtypeStruct]:
        q, k, tokens = (batch, seq, heads, head), (batch, seq, kv_heads, head), (batch, seq)
        types = {
            "q": (q, dtype),
            "k": (k, kv_dtype or dtype),
            "v": (k, kv_dtype or dtype),
            "order": (tokens, jnp.int32),
            "first": (tokens, jnp.int32),
        }
        return {
            name: jax.ShapeDtypeStruct(
                shape, kind, sharding=NamedSharding(mesh, spec(*DIMENSIONS[name])) if mesh else None
            )
            for name, (shape, kind) in types.items()
        }

    return structs


@pytest.fixture(scope="session")
def program(abstract, compiled):
    """Compile attention on a mesh, or its gradient, to the text of a program."""

    def text(axes: dict[str, int], *, of: str = "value", kv_heads: int = 2, **options: Any) -> str:
        config, mesh = AttentionConfig(**options), _mesh(axes)

        def value(q, k, v, order, first):
            return jnp.sum(attention(q, k, v, order=order, first=first, config=config) ** 2)

        run = {"value": value, "gradient": jax.grad(value, argnums=(0, 1, 2))}[of]
        with jax.set_mesh(mesh):
            return compiled(jax.jit(run).lower(*abstract(mesh, kv_heads=kv_heads).values()))

    return text


@pytest.fixture(scope="session")
def exchanges():
    """Count what the devices of a compiled program send each other: `{"collective-permute f32": 1}`.

    An all-reduce, which sums what attention gives, is left out.
    """

    def count(program: str) -> dict[str, int]:
        kinds = "collective-permute|all-gather|all-to-all|reduce-scatter"
        found = re.findall(rf"= \(?(\w+)\[.*? ({kinds})(?:-start)?\(", program)
        return dict(Counter(f"{kind} {dtype}" for dtype, kind in found))

    return count
