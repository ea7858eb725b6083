"""Pages on tiny integers: what is known, what goes first, and what must hold for any use."""

from hypothesis import given
from hypothesis import strategies as st

from ringworld.inference.engine.pages import ROOT, Pages


def test_a_page_is_known_by_its_tokens_and_by_what_stands_before_it():
    pages = Pages(5)
    a, b = pages.take(), pages.take()
    assert a is not None and b is not None and 0 not in (a, b)
    assert pages.store(a, before=ROOT, tokens=[1, 2])
    assert pages.store(b, before=a, tokens=[1, 2])
    assert pages.find([1, 2], before=ROOT) == a
    assert pages.find([1, 2], before=a) == b
    assert pages.find([1, 2], before=b) is None
    assert pages.find([2, 1], before=ROOT) is None
    other = pages.take()
    assert other is not None
    assert not pages.store(other, before=ROOT, tokens=[1, 2])


def test_the_leaf_that_was_used_longest_ago_goes_first_and_nothing_that_is_held():
    pages = Pages(4)
    trunk, old, new = (pages.take() for _ in range(3))
    assert trunk and old and new
    for page, before, token in ((trunk, ROOT, 1), (old, trunk, 2), (new, trunk, 3)):
        pages.store(page, before=before, tokens=[token])
    assert pages.take() is None
    pages.release([trunk, old, new])
    # Used again, and now later than the other leaf.
    pages.hold(old)
    pages.release([old])
    assert (pages.available, pages.held) == (3, 0)
    assert pages.take() == new
    assert pages.find([3], before=trunk) is None
    assert [pages.take(), pages.take(), pages.take()] == [old, trunk, None]


def test_what_is_not_known_is_free_when_it_is_released():
    pages = Pages(3)
    page = pages.take()
    assert page is not None
    pages.release([page])
    assert pages.available == 2
    assert {pages.take(), pages.take()} == {1, 2}


@given(
    st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(0, 1), min_size=1, max_size=4)), max_size=40)
)
def test_pages_are_held_by_those_that_hold_them_and_no_page_is_lost(uses):
    pages, sequences = Pages(6), {}
    for who, tokens in uses:
        if who in sequences:
            pages.release(sequences.pop(who))
            continue
        held, before = [], ROOT
        for token in tokens:
            page = pages.find([token], before=before)
            if page is not None:
                pages.hold(page)
            elif (page := pages.take()) is not None:
                pages.store(page, before=before, tokens=[token])
            else:
                break
            held.append(page)
            before = page
        sequences[who] = held
    in_use = {page for held in sequences.values() for page in held}
    assert 0 not in in_use
    assert pages.held == len(in_use)
    assert pages.available == pages.count - len(in_use)
    for held in sequences.values():
        pages.release(held)
    taken = {pages.take() for _ in range(pages.count)}
    assert taken == {1, 2, 3, 4, 5}
