from dataclasses import dataclass
from math import inf, nan
from typing import Any

import numpy as np
import pytest

from ringworld.core.errors import InputError
from ringworld.core.ranges import check_number, check_range, whole_number


@dataclass
class Rates:
    rate: float


@pytest.mark.parametrize("rate", [0, 0.5])
def test_the_lower_end_is_in_the_range_and_the_upper_one_is_not(rate: float):
    check_range(Rates(rate), "rate", least=0, below=1)


def refused(value: Any, **bounds: Any) -> None:
    with pytest.raises(InputError) as refusal:
        check_range(Rates(value), "rate", of="model", **bounds)
    assert refusal.value.field == "model.rate"
    assert refusal.value.value is value


@pytest.mark.parametrize("rate", [-0.1, 1, nan, inf, -inf])
def test_what_is_outside_is_refused_by_name(rate: float):
    refused(rate, least=0, below=1)


@pytest.mark.parametrize(("rate", "outside"), [(2, {"above": 2}), (2, {"most": 1}), (inf, {"above": 2})])
def test_the_other_ends(rate: float, outside: dict[str, float]):
    check_range(Rates(2), "rate", above=1, most=2)
    refused(rate, **outside)


def test_an_integer_that_no_array_holds_is_outside_every_range():
    check_number("seed", 2**63 - 1)
    for value in (2**63, -(2**63), 10**400, -(10**5000)):
        refused(value)
        refused(value, least=-inf)


@dataclass
class Counts:
    count: int


def test_numbers_of_numpy_are_numbers():
    check_range(Rates(np.float64(0.5)), "rate", least=0, below=1)
    check_range(Counts(np.int64(3)), "count", least=1)  # pyright: ignore[reportArgumentType]
    assert type(whole_number("count", np.int64(3), least=1)) is int
    refused(np.float32(nan))


@pytest.mark.parametrize("value", [True, np.True_, "3", b"3", None, [3], 1j], ids=repr)
def test_what_is_no_number_is_refused(value: Any):
    refused(value, least=0)
    with pytest.raises(InputError) as refusal:
        whole_number("count", value)
    assert refusal.value.field == "count"


@pytest.mark.parametrize("value", [2.0, 1.5, np.float64(2), nan])
def test_a_fraction_is_no_count(value: Any):
    with pytest.raises(InputError) as refusal:
        check_range(Counts(value), "count", least=0)
    assert refusal.value.field == "count"
    with pytest.raises(InputError):
        whole_number("count", value)
