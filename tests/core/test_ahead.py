import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from ringworld.core.ahead import ahead


def test_items_come_in_order_and_no_more_are_made_than_may_wait():
    made: list[int] = []

    def count() -> Iterator[int]:
        for number in range(50):
            made.append(number)
            yield number

    taken = ahead(count(), most=3)
    assert [next(taken), next(taken)] == [0, 1]
    assert len(made) <= 2 + 3 + 1  # taken, waiting, and one that finds no room
    assert list(taken) == list(range(2, 50))


def test_what_an_item_raises_is_raised_in_its_place():
    damaged = OSError()

    def broken() -> Iterator[int]:
        yield 1
        raise damaged

    taken = ahead(broken(), most=3)
    assert next(taken) == 1
    with pytest.raises(OSError) as raised:
        next(taken)
    assert raised.value is damaged


def test_the_thread_ends_with_the_iterator():
    before = threading.active_count()
    taken = ahead(iter(range(1000)), most=2)
    assert next(taken) == 0
    taken.close()
    assert threading.active_count() == before


def test_no_thread_outlives_python():
    script = """
import atexit, threading
atexit.register(lambda: print(threading.active_count()))  # runs last
from ringworld.core.ahead import ahead
items = ahead(iter(int, 1), most=1)
next(items)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("1\n", "")
