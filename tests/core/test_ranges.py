from dataclasses import dataclass
from math import inf, nan

import pytest

from ringworld.core.errors import InputError
from ringworld.core.ranges import check_finite, check_range


@dataclass
class Rates:
    rate: float


@pytest.mark.parametrize("rate", [0, 0.5])
def test_the_lower_end_is_in_the_range_and_the_upper_one_is_not(rate):
    check_range(Rates(rate), "rate", least=0, below=1)


@pytest.mark.parametrize("rate", [-0.1, 1, nan, inf, -inf])
def test_what_is_outside_is_named_with_the_range(rate):
    with pytest.raises(InputError, match=rf"^the rate: got {rate}, expected at least 0 and below 1\."):
        check_range(Rates(rate), "rate", least=0, below=1, what="the {}".format)


@pytest.mark.parametrize(("rate", "outside"), [(2, {"above": 2}), (2, {"most": 1}), (inf, {"above": 2})])
def test_the_other_ends(rate, outside):
    check_range(Rates(2), "rate", above=1, most=2)
    with pytest.raises(InputError, match=f"got {rate}"):
        check_range(Rates(rate), "rate", **outside)


@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_a_training_stops_at_the_first_number_without_bounds(value):
    check_finite({"loss": 1e30, "codes": 3}, where="step 4")
    with pytest.raises(InputError, match=rf"^norm at step 4: got {value}, .*Lower the learning rate"):
        check_finite({"loss": 1.0, "norm": value}, where="step 4")
