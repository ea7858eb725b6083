"""One packed batch with its answers from the oracle, for every test of attention."""

from dataclasses import dataclass
from functools import cached_property

import jax
import numpy as np
import pytest
from jaxtyping import Float64

from ringworld.attention import reference

BATCH, SEQ, HEADS, KV_HEADS, HEAD = 2, 128, 4, 2, 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """Random queries, keys, values and cotangents in float32, with order and first of each token."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    dout: np.ndarray
    order: np.ndarray
    first: np.ndarray

    @cached_property
    def out(self) -> np.ndarray:
        return self._forward[0]

    @cached_property
    def lse(self) -> np.ndarray:
        return self._forward[1]

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
    return Example(q=q, k=k, v=v, dout=dout, order=order, first=first)


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
