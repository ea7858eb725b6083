"""WGMMA products of Hopper, whose results stay in the registers of a warpgroup.

A product of 64 rows is asynchronous: the warpgroup does other work until it needs the result. Jax's
interpreter supports neither accumulators that start from a value, nor operands in registers, nor layouts of
arrays over threads, so that plain products replace them there.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float32, Shaped

from ringworld.attention.arithmetic import ROWS_WITH_ROWS, dot
from ringworld.attention.config import PallasMode

ROWS = 64  # of a product, per warpgroup
Result = TypeVar("Result")
_Sum = plgpu.WGMMAAccumulatorRef


class Product(NamedTuple):
    """Two matrices, the first in shared memory or in registers, and which dimensions to sum over."""

    a: Any
    b: Any
    dimensions: tuple

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the result."""
        return self.a.shape[0], self.b.shape[0 if self.dimensions == ROWS_WITH_ROWS else 1]


def product(
    of: Product, *, mode: PallasMode, meanwhile: Callable[[], None] = lambda: None
) -> Float32[Array, "rows columns"]:
    """Return a product, and run `meanwhile` while it is computed."""
    if mode == "interpreted":
        meanwhile()
        return _dot(of)

    def run(total: Any) -> Array:
        _start(total, of)
        meanwhile()
        return total[...]

    return pl.run_scoped(run, _Sum(of.shape, jnp.float32))


def products(
    ahead: Product, work: Callable[[Array], Result], behind: Product, *, mode: PallasMode
) -> tuple[Result, Float32[Array, "rows columns"]]:
    """Return `work` of the product ahead, done while the one behind it is computed, and that one."""
    if mode == "interpreted":
        return work(_dot(ahead)), _dot(behind)

    def run(a: Any, b: Any) -> tuple[Result, Array]:
        _start(a, ahead)
        _start(b, behind)
        worked = work(plgpu.wgmma_accumulator_load(a, wait_n=1))
        return worked, b[...]

    return pl.run_scoped(run, _Sum(ahead.shape, jnp.float32), _Sum(behind.shape, jnp.float32))


def add_product(
    total: Float32[Array, "rows columns"],
    of: Product,
    *,
    mode: PallasMode,
    meanwhile: Callable[[], None] = lambda: None,
) -> Float32[Array, "rows columns"]:
    """Return the total plus a product, and run `meanwhile` while it is computed."""
    if mode == "interpreted":
        meanwhile()
        return total + _dot(of)

    def run(into: Any) -> None:
        _start(into, of)
        meanwhile()

    run_on: Callable[..., Any] = pl.run_state(run)
    return run_on(_Sum.init(total))


def add_products(
    totals: tuple[Array, Array], ahead: Product, work: Callable[[], Product], *, mode: PallasMode
) -> tuple[Float32[Array, "rows columns"], Float32[Array, "rows columns"]]:
    """Return two totals plus a product each; `work` gives the second one while `ahead` is computed."""
    if mode == "interpreted":
        return totals[0] + _dot(ahead), totals[1] + _dot(work())

    def run(into: tuple[Any, Any]) -> None:
        _start(into[0], ahead)
        _start(into[1], work())

    run_on: Callable[..., Any] = pl.run_state(run)
    return run_on((_Sum.init(totals[0]), _Sum.init(totals[1])))


def zeros(columns: int, *, mode: PallasMode) -> Float32[Array, "rows columns"]:
    """Return an accumulator of zeros."""
    x = jnp.zeros((ROWS, columns), jnp.float32)
    return x if mode == "interpreted" else plgpu.layout_cast(x, plgpu.Layout.WGMMA)


def full_row_values(value: float, *, mode: PallasMode) -> Float32[Array, "rows"]:
    """Return one number for each row of a product."""
    x = jnp.full((ROWS,), value, jnp.float32)
    return x if mode == "interpreted" else plgpu.layout_cast(x, plgpu.Layout.WGMMA.reduce(1))


def load_row_values(x: Any, *, mode: PallasMode) -> Shaped[Array, "rows"]:
    """Load a number for each row of a product, from shared memory."""
    return x[...] if mode == "interpreted" else plgpu.layout_cast(x[...], plgpu.Layout.WGMMA.reduce(1))


def load_column_values(x: Any, *, mode: PallasMode) -> Shaped[Array, "columns"]:
    """Load a number for each column of a product, from shared memory."""
    return x[...] if mode == "interpreted" else plgpu.layout_cast(x[...], plgpu.Layout.WGMMA.reduce(0))


def over_columns(x: Shaped[Array, "rows"], columns: int) -> Shaped[Array, "rows columns"]:
    """Repeat a number of each row along it."""
    return lax.broadcast_in_dim(x, (x.shape[0], columns), (0,))


def over_rows(x: Shaped[Array, "columns"]) -> Shaped[Array, "rows columns"]:
    """Repeat a number of each column along it."""
    return lax.broadcast_in_dim(x, (ROWS, x.shape[0]), (1,))


def _start(total: Any, of: Product) -> None:
    b = of.b.T if of.dimensions == ROWS_WITH_ROWS else of.b
    plgpu.wgmma(total, of.a, b)


def _dot(of: Product) -> Array:
    return dot(of.a[...], of.b[...], of.dimensions)
