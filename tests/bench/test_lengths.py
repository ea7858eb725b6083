from functools import partial

import numpy as np
import pytest

from ringworld.bench.lengths import draw, until_full
from ringworld.core.errors import InputError


def test_draws_fill_a_sequence():
    assert until_full(np.array([3.7, 0.2, 9, 5]), seq=10) == [3, 1, 6]
    assert until_full(np.array([12.0]), seq=10) == [10]


def test_equal_documents_differ_by_a_token_at_most():
    assert draw("equal", seq=8, documents=3, seed=0) == [2, 3, 3]
    assert draw("equal", seq=8, documents=1, seed=0) == [8]
    assert draw("equal", seq=8, documents=8, seed=0) == [1] * 8


def test_random_cuts_leave_so_many_documents_and_no_empty_one():
    random_cuts = partial(draw, "random")
    lengths = random_cuts(seq=32, documents=16, seed=3)
    assert (len(lengths), sum(lengths), min(lengths)) == (16, 32, 1)
    assert lengths == random_cuts(seq=32, documents=16, seed=3)
    assert lengths != random_cuts(seq=32, documents=16, seed=4)
    assert random_cuts(seq=5, documents=1, seed=0) == [5]


def test_a_book_takes_its_share_and_the_rest_has_the_median_asked_for():
    lengths = draw("book", seq=2**20, documents=1, seed=0, median_tokens=500, sigma=1.0)
    assert lengths[0] == int(0.4 * 2**20)
    assert sum(lengths) == 2**20
    assert np.median(lengths[1:]) == pytest.approx(500, rel=0.15)
    full = draw("lognormal", seq=1000, documents=1, seed=0, median_tokens=100, sigma=0.0)
    assert full == [100] * 10


@pytest.mark.parametrize("documents", [0, 9])
def test_documents_without_a_token_are_refused(documents):
    for workload in ("equal", "random"):
        with pytest.raises(InputError) as refused:
            draw(workload, seq=8, documents=documents, seed=0)
        assert (refused.value.field, refused.value.value) == ("documents", documents)


@pytest.mark.parametrize(
    "wrong", [{"seq": 0}, {"seq": 10**12}, {"sigma": float("nan")}, {"sigma": -1.0}, {"sigma": 1000.0}]
)
def test_a_workload_that_cannot_be_drawn_is_refused(wrong):
    with pytest.raises(InputError) as refused:
        draw("book", **{"seq": 64, "documents": 1, "seed": 0, **wrong})
    assert refused.value.field == next(iter(wrong))
