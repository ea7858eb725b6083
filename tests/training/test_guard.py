import math
from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from ringworld.core.errors import Diverged, InputError
from ringworld.training.config import GuardConfig
from ringworld.training.guard import Guard, check_skipped, judge

NAN, INF = math.nan, math.inf


def judged(
    norms: Sequence[float], config: GuardConfig, *, losses: Sequence[float] | None = None
) -> tuple[list[bool], Guard]:
    """Return which updates are made, and what is left of the guard."""
    guard, made = Guard.new(), []
    one = jax.jit(judge, static_argnames="config")
    for norm, loss in zip(norms, losses or [1.0] * len(norms)):
        good, guard = one(guard, loss=jnp.float32(loss), norm=jnp.float32(norm), config=config)
        made.append(bool(good))
    return made, guard


@pytest.mark.parametrize(("loss", "norm"), [(NAN, 1.0), (1.0, NAN), (INF, 1.0), (1.0, INF), (-INF, INF)])
def test_what_is_not_finite_is_skipped_and_forgotten(loss: float, norm: float):
    made, guard = judged([1.0, norm, 1.0], GuardConfig(), losses=[1.0, loss, 1.0])
    assert made == [True, False, True]
    assert (int(guard.skipped), int(guard.in_a_row)) == (1, 0)
    assert guard.norms[-3:].tolist() == [INF, 1.0, 1.0]


def test_a_spike_is_measured_by_the_median_of_half_a_window_or_more():
    usual = [1.0, 3.0] * 17
    made, _ = judged([1000.0, *usual, 29.0, 31.0, 29.0], GuardConfig(spike_factor=10.0))
    # 33 norms of 64 are known, among them 17 of 3: the median is 3 where all that are missing are infinite.
    assert made == [True] * 36 + [False, True]


def test_no_size_is_a_spike_by_default():
    assert judged([*[1.0] * 40, 1e30], GuardConfig())[0][-1]


def test_a_run_that_may_go_on_no_more_makes_no_update_until_the_host_looks():
    config = GuardConfig(most_in_a_row=2)
    made, guard = judged([NAN, 1.0, NAN, NAN, 1.0], config)
    assert made == [False, True, False, False, False]
    assert (int(guard.skipped), int(guard.in_a_row)) == (4, 3)


@pytest.mark.parametrize(
    ("norm", "loss", "name"), [(1.0, NAN, "loss"), (INF, 2.0, "gradient_norm"), (1e9, 2.0, "gradient_norm")]
)
def test_too_many_in_a_row_end_the_run_and_name_the_last_of_them(norm: float, loss: float, name: str):
    """The host looks three updates later, when loss and norm are as they should be again."""
    config = GuardConfig(most_in_a_row=2, spike_factor=10.0)
    norms, losses = [*[1.0] * 40, norm, norm], [*[2.0] * 40, loss, loss]
    check_skipped(judged(norms[:-1], config, losses=losses[:-1])[1], step=41, of="train 4K", config=config)
    made, guard = judged([*norms, 1.0, 1.0, 1.0], config, losses=[*losses, 2.0, 2.0, 2.0])
    assert made == [True] * 40 + [False] * 5
    with pytest.raises(Diverged) as ended:
        check_skipped(guard, step=45, of="train 4K", config=config)
    assert (ended.value.name, ended.value.step, ended.value.in_a_row) == (name, 42, 2)
    assert ended.value.value == pytest.approx(loss if name == "loss" else norm, nan_ok=True)


def test_a_stage_begins_without_the_norms_of_the_one_before():
    config = GuardConfig(spike_factor=10.0)
    made, guard = judged([*[1.0] * 40, 20.0], config)
    assert not made[-1]
    begun = guard.next_stage()
    assert (int(begun.skipped), int(begun.in_a_row)) == (1, 0)
    assert bool(judge(begun, loss=jnp.float32(1), norm=jnp.float32(20), config=config)[0])


@pytest.mark.parametrize(
    ("field", "value"),
    [("spike_factor", 1.0), ("spike_factor", -2.0), ("spike_factor", NAN), ("most_in_a_row", 0)],
)
def test_limits_that_would_skip_everything_are_refused(field: str, value: float):
    with pytest.raises(InputError) as refused:
        replace(GuardConfig(), **{field: value})
    assert refused.value.field == f"guard.{field}"
