"""Processes wait for each other, and name who is missing."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

from ringworld.core.errors import InputError
from ringworld.core.roll_call import call_roll


def free_port() -> int:
    with closing(socket.create_server(("", 0))) as listener:
        return listener.getsockname()[1]


def answers(present: dict[int, int], *, seconds: float, port: int | None = None) -> dict[int, Any]:
    """Call the roll of processes, each with the count that it believes in; return what each raises."""
    coordinator = f"127.0.0.1:{port or free_port()}"

    def call(index: int) -> Exception | None:
        try:
            return call_roll(coordinator, count=present[index], index=index, timeout_seconds=seconds)
        except InputError as error:
            return error

    with ThreadPoolExecutor() as pool:
        return dict(zip(present, pool.map(call, present)))


def test_all_of_them_go_on_when_the_last_one_came():
    assert answers({2: 3, 1: 3, 0: 3}, seconds=30.0) == {0: None, 1: None, 2: None}


def test_those_that_are_missing_are_named_to_all_others():
    said = answers({0: 4, 2: 4}, seconds=1.0)
    assert {index: (error.field, error.value) for index, error in said.items()} == {
        0: ("index", [1, 3]),
        2: ("index", [1, 3]),
    }


def test_a_process_whose_coordinator_is_not_there_names_it():
    port = free_port()
    error = answers({1: 2}, seconds=0.5, port=port)[1]
    assert (error.field, error.value) == ("coordinator", f"127.0.0.1:{port}")


def test_a_coordinator_that_listens_and_says_nothing_is_not_waited_for_for_ever():
    with closing(socket.create_server(("", 0))) as listener:
        port = listener.getsockname()[1]
        error = answers({1: 2}, seconds=0.2, port=port)[1]
    assert (error.field, error.value) == ("coordinator", f"127.0.0.1:{port}")


def test_a_port_that_is_taken_is_named():
    with closing(socket.create_server(("", 0))) as listener:
        port = listener.getsockname()[1]
        error = answers({0: 2}, seconds=30.0, port=port)[0]
    assert (error.field, error.value) == ("coordinator", port)


def test_one_that_counts_otherwise_is_named():
    said = answers({0: 2, 1: 3}, seconds=30.0)
    assert [said[index].field for index in (0, 1)] == ["count", "count"]
    assert said[0].value == [1]


def test_who_only_looks_at_the_port_does_not_count():
    """Nor does it end the roll call, whatever it sends."""
    port = free_port()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(answers, {0: 2, 1: 2}, seconds=30.0, port=port)
        for content in (
            b"",
            b"GET / HTTP/1.1\n",
            b"[]\n",
            b'{"index": "1"}\n',
            b'{"index": 9, "count": 2}\n',
        ):
            for _ in range(50):
                try:
                    with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                        connection.sendall(content)
                    break
                except OSError:
                    time.sleep(0.01)
        assert waiting.result() == {0: None, 1: None}
