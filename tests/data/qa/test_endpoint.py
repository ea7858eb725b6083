import socket
import threading
from contextlib import closing
from typing import Any

import pytest

from ringworld.core.errors import InputError
from ringworld.data.qa.config import QaConfig
from ringworld.data.qa.endpoint import Endpoint
from ringworld.data.qa.pairs import prompt
from ringworld.data.qa.replies import RefusedError
from tests.data.qa.fake_endpoint import Double, story

PROMPT = prompt(story(["Bera"], filler=1))
AT_ONCE = {"Retry-After": "0"}


def ask(double: Double, *, key: str | None = None, **changes: Any) -> str:
    config = QaConfig(model="writer", address=double.address, **changes)
    with closing(Endpoint(config, key=key)) as endpoint:
        return endpoint.reply(PROMPT).text


def test_a_request_says_who_writes_and_how_much(double: Double):
    assert (
        ask(double, key="sk-1", max_reply_tokens=99)
        == "Question: Who was the captain of the ship Bera?\nAnswer: BERA Brown"
    )
    (body,) = double.bodies
    assert body["model"] == "writer" and body["max_tokens"] == 99
    assert double.keys == ["Bearer sk-1"]
    ask(double, reply_limit="max_completion_tokens")
    assert double.bodies[1]["max_completion_tokens"] == 256 and double.keys[1] is None


def test_a_busy_endpoint_is_asked_again_when_it_says(double: Double):
    double.failures = [(429, AT_ONCE), (503, AT_ONCE), (500, AT_ONCE)]
    assert ask(double, retries=3).startswith("Question")
    assert len(double.bodies) == 4


def test_an_endpoint_that_stays_busy_is_given_up(double: Double):
    double.failures = [(503, AT_ONCE)] * 9
    with pytest.raises(InputError) as refused:
        ask(double, retries=2)
    assert refused.value.field == "address" and len(double.bodies) == 3


@pytest.mark.parametrize(
    ("status", "error"), [(400, RefusedError), (422, RefusedError), (401, InputError), (404, InputError)]
)
def test_a_refusal_is_not_repeated(double: Double, status: int, error: type[InputError]):
    double.failures = [(status, {})]
    with pytest.raises(InputError) as refused:
        ask(double, key="sk-secret")
    assert type(refused.value) is error and len(double.bodies) == 1
    assert "sk-secret" not in str(refused.value)


@pytest.mark.parametrize(
    "raw",
    [
        *(b"<html>", b"[]", b"\xff", b"[" * 100_000),
        *(b'{"choices": []}', b'{"choices": [{"message": {"content": 3}}]}'),
        b'{"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": 1e999}}',
    ],
)
def test_an_answer_in_another_form_is_refused(double: Double, raw: bytes):
    double.raw = raw
    with pytest.raises(InputError):
        ask(double)


def test_an_address_where_nobody_listens_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    config = QaConfig(model="writer", address=f"http://127.0.0.1:{port}", retries=0)
    with closing(Endpoint(config, key=None)) as endpoint, pytest.raises(InputError) as refused:
        endpoint.reply(PROMPT)
    assert refused.value.field == "address"


def test_requests_are_no_more_a_minute_than_asked_for(double: Double):
    config = QaConfig(model="writer", address=double.address, requests_per_minute=1200.0)
    with closing(Endpoint(config, key=None)) as endpoint:
        threads = [threading.Thread(target=endpoint.reply, args=(PROMPT,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    # Turns are 50 ms apart; what is sent may be late, but the last is never early.
    assert max(double.times) - min(double.times) > 0.1


def test_requests_that_were_put_off_for_the_same_time_do_not_come_at_once(double: Double):
    double.failures = [(429, {"Retry-After": f"{wait:.2f}"}) for wait in (0.45, 0.4, 0.35, 0.3)]
    config = QaConfig(model="writer", address=double.address, requests_per_minute=1200.0)
    with closing(Endpoint(config, key=None)) as endpoint:
        threads = [threading.Thread(target=endpoint.reply, args=(PROMPT,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    *_, first, _, _, last = sorted(double.times)
    assert last - first > 0.1  # as above


def test_who_waits_is_told_to_stop(double: Double):
    double.failures = [(503, {"Retry-After": "500"})]
    config = QaConfig(model="writer", address=double.address)
    with closing(Endpoint(config, key=None)) as endpoint:
        threading.Timer(0.1, endpoint.stop).start()
        with pytest.raises(InputError):
            endpoint.reply(PROMPT)


def test_a_key_that_no_request_can_show_is_refused(double: Double):
    with pytest.raises(InputError) as refused:
        ask(double, key="sk-1\n")
    assert refused.value.field == "key_variable" and not double.bodies


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("address", "localhost:8000"),
        ("address", "http://"),
        ("address", "http://[::1"),
        ("address", "https://me:secret@host/v1"),
        ("model", " "),
        ("passage_tokens", 3),
        ("context_tokens", ()),
        ("context_tokens", (1500,)),
        ("temperature", -1.0),
        ("held_out_fraction", 1.0),
    ],
)
def test_what_cannot_be_asked_is_refused(field: str, value: Any):
    with pytest.raises(InputError) as refused:
        QaConfig(**{"model": "writer", field: value})
    assert refused.value.field == field
