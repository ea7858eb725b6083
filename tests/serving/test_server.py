"""A real server on a real socket, asked by Python's own client."""

import asyncio
import base64
import http.client
import io
import json
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ringworld.core.errors import InputError
from ringworld.data.qa.config import QaConfig
from ringworld.data.qa.endpoint import Endpoint
from ringworld.inference.config import EngineConfig
from ringworld.inference.engine.engine import Engine
from ringworld.serving.app import Server
from ringworld.serving.config import ServingConfig, ServingLimits
from ringworld.serving.fetch import Fetch
from ringworld.serving.server import http_server
from ringworld.text import templates
from ringworld.text.templates import ChatTemplate, Message
from ringworld.text.tokenizer import TextTokenizer
from tests.eventually import eventually
from tests.inference.tiny_world import TOKENIZER, VOCABULARY, make_world

WORLD = make_world(ring=1).world
TEXT = "A red circle moves to the right. "
ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": TEXT}]


@contextmanager
def serving(engine: Engine, *, limits: dict[str, Any] | None = None, fetch: Any = Fetch, **config):
    """Serve in a thread; yield the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    chosen = ServingConfig(name="tiny", limits=ServingLimits(**(limits or {})), **config)
    server = http_server(Server(WORLD, engine, config=chosen, fetch=fetch).app, config=chosen)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture(scope="module")
def engine():
    with WORLD.engine(EngineConfig(max_sequences=4, chunk_tokens=64, max_waiting=4)) as made:
        yield made


@pytest.fixture(scope="module")
def port(engine):
    with serving(
        engine, limits={"max_body_bytes": 100_000, "max_choices": 4, "max_frames": 40, "max_videos": 3}
    ) as found:
        yield found


def send(port: int, path: str, body=None, *, headers=None, raw: bytes | None = None) -> Any:
    """Return the status and what was answered, as JSON where it is that."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    content = json.dumps(body).encode() if raw is None and body is not None else raw
    sent = {"Content-Type": "application/json", **(headers or {})}
    connection.request("GET" if content is None else "POST", path, body=content, headers=sent)
    response = connection.getresponse()
    answered = response.read().decode()
    is_json = response.headers.get("Content-Type", "").startswith("application/json")
    connection.close()
    return response.status, json.loads(answered) if is_json else answered


@contextmanager
def asking(port: int, path: str, body: Any):
    """Ask for something, and leave without waiting for it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    sock = connection.sock
    assert sock is not None
    yield connection
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    connection.close()


def chat(port: int, **body) -> Any:
    return send(port, "/v1/chat/completions", {"messages": ASKED, "max_tokens": 8, **body})


def complete(port: int, **body) -> Any:
    return send(port, "/v1/completions", {"prompt": TEXT, "max_tokens": 8, **body})


def events(answered: str) -> list[dict]:
    lines = [line for line in answered.split("\n\n") if line and not line.startswith(":")]
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_an_answer_is_that_of_a_conversation(port):
    expected = WORLD.chat(system="Be brief.", max_new_tokens=8)
    answer = "".join(expected.ask(TEXT)).strip()
    status, answered = chat(port, model="tiny", temperature=0)
    assert status == 200
    assert answered["object"] == "chat.completion"
    (choice,) = answered["choices"]
    assert choice["message"] == {"role": "assistant", "content": answer, "refusal": None}
    assert choice["finish_reason"] == "length"
    turn = expected.last_answer
    assert turn is not None
    usage = answered["usage"]
    assert usage["prompt_tokens"] == turn.prompt_tokens
    assert usage["completion_tokens"] == turn.written_tokens
    assert usage["total_tokens"] == turn.prompt_tokens + turn.written_tokens
    assert chat(port, temperature=0)[1]["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


def test_make_qa_asks_it(port):
    config = QaConfig(
        model="tiny", address=f"http://127.0.0.1:{port}/v1", temperature=0.0, max_reply_tokens=8
    )
    with closing(Endpoint(config, key=None)) as endpoint:
        reply = endpoint.reply(TEXT)
    _, answered = send(
        port,
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": TEXT}], "max_tokens": 8, "temperature": 0},
    )
    assert reply.text == answered["choices"][0]["message"]["content"]
    usage = answered["usage"]
    assert (reply.prompt_tokens, reply.reply_tokens) == (usage["prompt_tokens"], usage["completion_tokens"])


def test_a_stream_says_the_same_piece_by_piece(port):
    same = {"temperature": 1.0, "seed": 3, "n": 2, "logprobs": True, "top_logprobs": 2}
    _, whole = chat(port, **same)
    status, answered = chat(port, stream=True, stream_options={"include_usage": True}, **same)
    assert status == 200
    *chunks, last = events(answered)
    assert {chunk["usage"] for chunk in chunks} == {None}
    assert last["choices"] == [] and last["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    for i, expected in enumerate(whole["choices"]):
        mine = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == i]
        assert mine[0]["delta"] == {"role": "assistant", "content": ""}
        content = "".join(choice["delta"].get("content", "") for choice in mine)
        assert content == expected["message"]["content"]
        assert mine[-1]["finish_reason"] == expected["finish_reason"]
        scored = [token for choice in mine[1:] for token in choice["logprobs"]["content"]]
        said = bytes(byte for token in scored for byte in token["bytes"] or ())
        assert said.decode(errors="replace").strip() == expected["message"]["content"]
        assert [token["token"] for token in scored] == [
            token["token"] for token in expected["logprobs"]["content"]
        ]
        assert all(len(token["top_logprobs"]) == 2 for token in scored)
    texts = [choice["message"]["content"] for choice in whole["choices"]]
    assert texts[0] != texts[1]


def test_a_stream_is_kept_alive_while_nothing_comes(engine):
    # Much less than the engine needs for a token.
    with serving(engine, keep_alive_seconds=1e-4) as port:
        _, answered = chat(port, stream=True, max_tokens=2)
    assert ": keep-alive\n\n" in answered
    assert events(answered)[-1]["choices"][0]["finish_reason"]


def test_texts_are_continued_and_echoed_with_their_scores(port):
    ids = WORLD.prompts.text(TEXT).tolist()
    status, answered = complete(
        port, prompt=[ids, ids[:9]], echo=True, logprobs=1, max_tokens=1, temperature=0
    )
    assert status == 200
    assert [choice["index"] for choice in answered["choices"]] == [0, 1]
    for choice, prompt in zip(answered["choices"], (ids, ids[:9])):
        scores = choice["logprobs"]
        assert scores["token_logprobs"][0] is None and scores["top_logprobs"][0] is None
        losses = WORLD.scorer.losses(np.array(prompt, np.int32))
        np.testing.assert_allclose(
            [-logprob for logprob in scores["token_logprobs"][1 : len(prompt)]], losses, rtol=0, atol=1e-5
        )
        assert len(scores["tokens"]) == len(scores["text_offset"]) == len(prompt) + 1
        # What lm-eval takes as a sign that the likeliest token was right.
        assert scores["token_logprobs"][-1] == max(scores["top_logprobs"][-1].values())
        assert choice["text"].startswith(WORLD.prompts.words(np.array(prompt, np.int32)))
    assert answered["usage"]["prompt_tokens"] == len(ids) + 9
    assert answered["model"] == "tiny"
    (expected,) = WORLD.completions(TEXT, max_new_tokens=8, temperature=0.0)
    assert complete(port, temperature=0)[1]["choices"][0]["text"] == expected.text
    _, only = complete(port, echo=True, logprobs=0, max_tokens=0)
    assert only["choices"][0]["text"] == TEXT
    assert len(only["choices"][0]["logprobs"]["token_logprobs"]) == len(ids)
    _, bare = complete(port, echo=True, max_tokens=0)
    assert (bare["choices"][0]["text"], bare["choices"][0]["logprobs"]) == (TEXT, None)


def test_tokens_are_found_at_their_offsets_in_the_text_also_of_a_stream(port):
    same = {
        "prompt": TEXT + "\u00e4\U0001f600",
        "echo": True,
        "logprobs": 1,
        "temperature": 1.5,
        "seed": 3,
        "n": 2,
    }
    _, whole = complete(port, **same)
    _, answered = complete(port, stream=True, **same)
    chunks = [chunk["choices"][0] for chunk in events(answered)]
    for choice in whole["choices"]:
        scores = choice["logprobs"]
        # <s> shows as no text.
        assert scores["text_offset"][:2] == [0, 0]
        # What was drawn is among the likeliest, though it is seldom the one that is.
        assert all(token in top for token, top in zip(scores["tokens"][1:], scores["top_logprobs"][1:]))
        for token, offset in zip(scores["tokens"], scores["text_offset"]):
            assert token.startswith("token_id:") or choice["text"][offset:].startswith(token)
        found = [each["logprobs"] for each in chunks if each["index"] == choice["index"]]
        for name in ("tokens", "text_offset"):
            assert [value for each in found for value in each[name]] == scores[name]


def test_the_tokens_of_an_echo_are_decoded_beside_the_event_loop(port, monkeypatch):
    names = set()

    def bytes_of(tokenizer, id: int) -> bytes:
        names.add(threading.current_thread().name)
        return tokenizer.decode([id]).encode()

    monkeypatch.setattr(TextTokenizer, "bytes_of", bytes_of)
    _, answered = complete(port, echo=True, logprobs=1, max_tokens=1, stream=True)
    assert events(answered)[0]["choices"][0]["text"].startswith(TEXT)
    assert names and all(name.startswith("ThreadPoolExecutor") for name in names)


def test_stop_strings_and_seeds_are_obeyed(port):
    seeded = {"temperature": 1.5, "seed": 2**63 - 1}
    text = complete(port, **seeded)[1]["choices"][0]["text"]
    assert complete(port, **seeded)[1]["choices"][0]["text"] == text
    assert complete(port, temperature=1.5)[1]["choices"][0]["text"] != text
    _, stopped = complete(port, stop=text[2:4], **seeded)
    assert stopped["choices"][0]["text"] == text[: text.index(text[2:4])]
    assert stopped["choices"][0]["finish_reason"] == "stop"


def test_an_end_is_ignored_where_that_is_asked(port):
    asked = {"prompt": [TOKENIZER.eos], "temperature": 3.0, "max_tokens": 60}
    ended = next(
        seed
        for seed in range(60)
        if complete(port, seed=seed, **asked)[1]["choices"][0]["finish_reason"] == "stop"
    )
    answered = complete(port, seed=ended, ignore_eos=True, **asked)[1]
    assert answered["choices"][0]["finish_reason"] == "length"
    assert answered["usage"]["completion_tokens"] == 60


def picture(kind: str = "PNG", side: int = 9) -> str:
    file = io.BytesIO()
    Image.new("RGB", (side, side), (200, 20, 20)).save(file, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def test_pictures_are_seen(port, tmp_path):
    url = picture()
    path = tmp_path / "red.png"
    path.write_bytes(base64.b64decode(url.partition(",")[2]))
    template, codes = ChatTemplate.of(TOKENIZER, vocabulary=VOCABULARY), WORLD.codes(image=path)
    expected = template.encode([Message(role="user", content=("What?", codes))])
    typed = {"type": "image_url"}
    for part in ({**typed, "image_url": {"url": url}}, {**typed, "image_url": url}, {"image_url": url}):
        content = [{"type": "text", "text": "What?"}, part]
        messages = [{"role": "user", "content": content}]
        assert send(port, "/tokenize", {"messages": messages})[1]["tokens"] == expected.tolist()
    between = [part, {"type": "text", "text": "or"}, {"type": "text", "text": " "}, part]
    in_order = template.encode([Message(role="user", content=(codes, "or", codes))])
    asked = {"messages": [{"role": "user", "content": between}]}
    assert send(port, "/tokenize", asked)[1]["tokens"] == in_order.tolist()
    status, answered = chat(port, messages=messages)
    assert status == 200
    assert answered["usage"]["prompt_tokens"] == len(expected)


def test_ids_and_text_are_turned_into_each_other(port):
    _, made = send(port, "/tokenize", {"prompt": TEXT})
    assert made["tokens"] == WORLD.prompts.text(TEXT).tolist()
    assert (made["count"], made["max_model_len"]) == (len(made["tokens"]), 512)
    _, bare = send(port, "/tokenize", {"prompt": TEXT, "add_special_tokens": False})
    assert bare["tokens"] == made["tokens"][1:]
    assert send(port, "/detokenize", {"tokens": made["tokens"]})[1] == {"prompt": TEXT}


def test_the_model_and_the_server_describe_themselves(port, engine):
    _, models = send(port, "/v1/models")
    (model,) = models["data"]
    assert (model["id"], model["max_model_len"]) == ("tiny", 512)
    assert send(port, "/v1/models/tiny")[1] == model
    assert send(port, "/health") == (200, {"status": "ok"})
    complete(port)
    status, text = send(port, "/metrics")
    assert status == 200
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values['ringworld_http_requests_total{path="/v1/completions",status="200"}']) >= 1
    assert float(values["ringworld_generation_tokens_total"]) >= 8
    assert float(values["ringworld_first_token_seconds_count"]) >= 1
    assert float(values["ringworld_next_token_seconds_count"]) >= 7
    assert float(values["ringworld_cache_pages"]) == engine.state.pages
    for name in ("cache_held_pages", "waiting_requests", "running_requests"):
        assert float(values[f"ringworld_{name}"]) == 0
    for path, body, status in (("/v1/nothing", None, 404), ("/health", {}, 405)):
        name = f'ringworld_http_requests_total{{path="",status="{status}"}}'
        send(port, path, body)
        counted = dict(line.rsplit(" ", 1) for line in send(port, "/metrics")[1].splitlines())
        assert float(counted[name]) == float(values.get(name, 0)) + 1


def test_a_queue_is_seen_while_it_is_full(port, engine):
    with ThreadPoolExecutor(6) as pool:
        answers, seen = [], set()

        def full() -> bool:
            answers.append(pool.submit(complete, port, prompt=[5 + len(answers) % 90], max_tokens=80))
            lines = send(port, "/metrics")[1].splitlines()
            values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
            names = ("waiting_requests", "running_requests", "cache_held_pages")
            seen.update(name for name in names if float(values[f"ringworld_{name}"]) > 0)
            return len(seen) == 3

        eventually(full)
        assert all(each.result()[0] == 200 for each in answers)


WRONG = [
    ("/v1/chat/completions", {}, "messages"),
    ("/v1/chat/completions", {"messages": []}, "messages"),
    ("/v1/chat/completions", {"messages": "Hi"}, "messages"),
    ("/v1/chat/completions", {"messages": ["Hi"]}, "messages[0]"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
    ("/v1/chat/completions", {"messages": [{"role": "god", "content": "a"}]}, "messages[0].role"),
    ("/v1/chat/completions", {"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role"),
    ("/v1/chat/completions", {"messages": ASKED, "tools": [{"type": "function"}]}, "tools"),
    (
        "/v1/chat/completions",
        {"messages": ASKED, "response_format": {"type": "json_object"}},
        "response_format",
    ),
    ("/v1/chat/completions", {"messages": ASKED, "max_tokens": 0}, "max_tokens"),
    ("/v1/chat/completions", {"messages": ASKED, "logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ("/v1/chat/completions", {"messages": ASKED, "top_logprobs": 2}, "top_logprobs"),
    ("/v1/chat/completions", {"messages": ASKED, "stream": "yes"}, "stream"),
    ("/v1/chat/completions", {"messages": ASKED, "stream_options": 3}, "stream_options"),
    ("/v1/completions", {}, "prompt"),
    ("/v1/completions", {"prompt": []}, "prompt"),
    ("/v1/completions", {"prompt": [[]]}, "prompt"),
    ("/v1/completions", {"prompt": [10**9]}, "prompt"),
    ("/v1/completions", {"prompt": [-1]}, "prompt"),
    ("/v1/completions", {"prompt": {"a": 1}}, "prompt"),
    ("/v1/completions", {"prompt": "a\ud800"}, "text"),
    ("/v1/completions", {"prompt": TEXT, "temperature": "hot"}, "temperature"),
    ("/v1/completions", {"prompt": TEXT, "temperature": -1}, "temperature"),
    ("/v1/completions", {"prompt": TEXT, "temperature": True}, "temperature"),
    ("/v1/completions", {"prompt": TEXT, "top_p": 0}, "top_p"),
    ("/v1/completions", {"prompt": TEXT, "top_k": 1.5}, "top_k"),
    ("/v1/completions", {"prompt": TEXT, "n": 5}, "n"),
    ("/v1/completions", {"prompt": TEXT, "n": 10**30}, "n"),
    ("/v1/completions", {"prompt": TEXT, "stop": ""}, "stop"),
    ("/v1/completions", {"prompt": TEXT, "stop": ["a"] * 17}, "stop"),
    ("/v1/completions", {"prompt": TEXT, "stop": [1]}, "stop"),
    ("/v1/completions", {"prompt": TEXT, "stop": "a" * 1001}, "stop"),
    ("/v1/completions", {"prompt": TEXT, "seed": "x"}, "seed"),
    ("/v1/completions", {"prompt": TEXT, "logprobs": 21}, "logprobs"),
    ("/v1/completions", {"prompt": TEXT, "max_tokens": 0}, "max_tokens"),
    ("/v1/completions", {"prompt": TEXT, "logit_bias": {"5": 1}}, "logit_bias"),
    ("/v1/completions", {"prompt": TEXT, "ignore_eos": 1}, "ignore_eos"),
    ("/v1/completions", {"prompt": TEXT, "min_tokens": 5}, "min_tokens"),
    ("/v1/completions", {"prompt": TEXT, "skip_special_tokens": False}, "skip_special_tokens"),
    ("/v1/completions", {"prompt": TEXT, "stop_token_ids": [5]}, "stop_token_ids"),
    ("/v1/completions", {"prompt": TEXT, "guided_regex": "a+"}, "guided_regex"),
    ("/v1/chat/completions", {"messages": ASKED, "chat_template_kwargs": {"a": 1}}, "chat_template_kwargs"),
    ("/v1/chat/completions", {"messages": ASKED, "max_frames": 0}, "max_frames"),
    ("/v1/chat/completions", {"messages": ASKED, "max_frames": 41}, "max_frames"),
    ("/v1/chat/completions", {"messages": ASKED, "fps": 1e-9}, "fps"),
    ("/v1/chat/completions", {"messages": ASKED, "media_io_kwargs": {"video": {}}}, "media_io_kwargs"),
    ("/v1/chat/completions", {"messages": [{**ASKED[1], "images": ["AAAA"]}]}, "messages[0].images[0]"),
    (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": [], "images": []}]},
        "messages[0].images",
    ),
    (
        "/v1/chat/completions",
        {"messages": [{**ASKED[1], "images": [{"content_offset": 99}]}]},
        "messages[0].images[0].content_offset",
    ),
    # How many there are is known before any of them is looked at.
    ("/v1/completions", {"prompt": ["a"] * 4 + [{}]}, "n"),
    ("/tokenize", {"prompt": 3}, "prompt"),
    ("/detokenize", {"tokens": [2**40]}, "tokens"),
]


@pytest.mark.parametrize(
    ("path", "body", "param"), WRONG, ids=[f"{param}-{i}" for i, (*_, param) in enumerate(WRONG)]
)
def test_a_field_that_is_wrong_is_named(port, path, body, param):
    status, answered = send(port, path, body)
    error = answered["error"]
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert error["message"]


def part_of(url: str) -> dict:
    return {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]}


@pytest.mark.parametrize(
    "body",
    [
        part_of("https://example.invalid/a.png"),
        part_of("file:///etc/passwd"),
        part_of("data:image/png;base64,%%%"),
        part_of("data:image/png;base64,AAAA"),
        part_of(picture().replace("png", "svg")[:60]),
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": picture()}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
    ],
    ids=["address", "file", "base64", "bytes", "cut", "audio", "still", "missing"],
)
def test_what_cannot_be_seen_is_refused(port, body):
    status, answered = send(port, "/v1/chat/completions", body)
    assert status == 400
    assert answered["error"]["param"].startswith("messages[0].content[0]")
    assert "/tmp" not in answered["error"]["message"]


@pytest.mark.parametrize(
    ("raw", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"", {}, 400),
        (b"[]", {}, 400),
        (b"\xff\xfe", {}, 400),
        (b'{"prompt": NaN}', {}, 400),
        (b"[" * 50_000, {}, 400),
        (b'{"max_tokens": ' + b"9" * 50_000 + b"}", {}, 400),
        (b" " * 100_001, {}, 413),
        (b"{}", {"Content-Type": "text/plain"}, 415),
        (b"{}", {"Host": "evil.example"}, 403),
        # Starlette reads neither, and takes the address of the socket in their place.
        (b"{}", {"Host": "a{.evil.example:8000"}, 403),
        (b"{}", {"Host": "evil.example:99999"}, 403),
    ],
)
def test_a_body_that_is_no_request_is_refused(port, raw, headers, status):
    found, answered = send(port, "/v1/completions", raw=raw, headers=headers)
    assert found == status
    assert set(answered["error"]) == {"message", "type", "param", "code"}


def test_a_body_whose_length_is_not_said_is_cut_off(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    parts = (b"x" * 50_000 for _ in range(5))
    connection.request(
        "POST", "/v1/completions", parts, {"Content-Type": "application/json"}, encode_chunked=True
    )
    assert connection.getresponse().status == 413
    connection.close()


def test_bodies_that_are_held_leave_no_room_for_another(engine):
    head = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    with serving(engine, limits={"max_body_bytes": 20_000}) as port, ExitStack() as stack:
        for _ in range(16):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            sock.sendall(head + b"Content-Length: 20000\r\n\r\n" + b" " * 19_990)
        body = {"prompt": TEXT, "max_tokens": 1}

        def refused() -> bool:
            status, answered = send(port, "/v1/completions", {**body, "user": "x" * 2000})
            return status == 429 and answered["error"]["code"] == "too_many_bytes"

        eventually(refused)
        assert send(port, "/health")[0] == 200
        stack.close()
        eventually(lambda: not refused())


def test_a_stream_is_kept_alive_while_what_it_shows_is_decoded(engine, monkeypatch):
    over = threading.Event()

    def late(command, **_):
        assert over.wait(60)
        return subprocess.CompletedProcess(command, -signal.SIGKILL, stdout=b"")

    monkeypatch.setattr(subprocess, "run", late)
    body = {
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": picture()}]}],
        "stream": True,
    }
    with serving(engine, keep_alive_seconds=0.05) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request(
            "POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"}
        )
        response = connection.getresponse()
        assert (response.status, response.readline()) == (200, b": keep-alive\n")
        over.set()
        last = [line for line in response.read().decode().splitlines() if line.startswith("data:")]
        connection.close()
    # What is found wrong after the status was sent is an event.
    assert json.loads(last[-1].removeprefix("data: "))["error"]["code"] == "decode_memory_exceeded"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/memories", "/tokenize"])
def test_time_is_bounded_also_before_the_engine_is_asked(engine, path, tmp_path, monkeypatch):
    over = threading.Event()

    def late(command, **_):
        assert over.wait(60)
        return subprocess.CompletedProcess(command, 1, stdout=b"")

    monkeypatch.setattr(subprocess, "run", late)
    shown = [{"role": "user", "content": [{"type": "image_url", "image_url": picture()}]}]
    with serving(engine, limits={"max_seconds": 0.3}, memory_folder=tmp_path) as port:
        status, answered = send(port, path, {"messages": shown})
        assert not over.is_set()
        over.set()
    assert (status, answered["error"]["code"]) == (504, "time_limit_exceeded")


def test_a_machine_that_is_too_busy_for_a_chat_template_says_so(engine, monkeypatch):
    with serving(engine) as port:
        with monkeypatch.context() as busy:
            busy.setattr(templates, "_WAIT_SECONDS", 1e-3)
            status, answered = chat(port)
            assert (status, answered["error"]["code"]) == (503, "server_busy")
        assert chat(port)[0] == 200


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/completions", {"prompt": TEXT, "model": "other"}, 404, "model_not_found"),
        ("/v1/models/other", None, 404, "model_not_found"),
        ("/v1/nothing", {}, 404, None),
        ("/v1/chat/completions/", {"messages": ASKED}, 404, None),
        ("/v1/models", {}, 405, None),
        ("/v1/completions", {"prompt": [5] * 600}, 400, "context_length_exceeded"),
        ("/v1/completions", {"prompt": TEXT, "max_tokens": 600}, 400, "context_length_exceeded"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "x" * 9000}]},
            400,
            "context_length_exceeded",
        ),
        ("/v1/completions", {"prompt": TEXT, "suffix": "b"}, 400, "unsupported_parameter"),
    ],
)
def test_errors_have_the_codes_that_clients_know(port, path, body, status, code):
    found, answered = send(port, path, body)
    assert (found, answered["error"]["code"]) == (status, code)


def test_another_method_is_refused_with_those_of_the_path(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("PUT", "/v1/videos/a")
    response = connection.getresponse()
    response.read()
    connection.close()
    assert (response.status, response.headers["Allow"]) == (405, "DELETE, GET, HEAD")


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_is_not_written_for(port, engine, stream):
    written = engine.state.written_tokens
    body = {"prompt": [7], "max_tokens": 500, "stream": stream, "temperature": 0}
    with asking(port, "/v1/completions", body):
        eventually(lambda: engine.state.written_tokens > written + 2)
    eventually(lambda: engine.state.running == 0)
    assert engine.state.written_tokens < written + 500
    assert engine.state.held_pages == 0


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {}),
        ("/v1/chat/completions", {"stream": True}),
        ("/v1/memories", {}),
        ("/tokenize", {}),
        ("/v1/videos", {"prompt": "A", "input_reference": {"image_url": picture()}}),
    ],
)
def test_nothing_is_decoded_for_a_client_who_has_gone_away(engine, path, body, tmp_path, monkeypatch):
    begun, ended = threading.Event(), threading.Event()

    def decode(command, *, stdin, **_):
        begun.set()
        stdin.read()
        ended.set()
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(subprocess, "run", decode)
    parts = [{"type": "image_url", "image_url": picture()}]
    said = {} if "prompt" in body else {"messages": [{"role": "user", "content": parts}]}
    with serving(engine, keep_alive_seconds=0.05, memory_folder=tmp_path) as port:
        with asking(port, path, said | body):
            assert begun.wait(60) and not ended.wait(0.2)
        assert ended.wait(60)
        counted = f'ringworld_http_requests_total{{path="{path}",status="499"}}'
        eventually(lambda: body.get("stream") or counted in send(port, "/metrics")[1])


def test_nothing_is_kept_for_a_client_who_has_gone_away(engine, tmp_path):
    held, over = threading.Event(), threading.Event()

    def wait(*_: object) -> None:
        held.set()
        assert over.wait(60)

    read = engine.state.read_tokens
    with serving(engine, memory_folder=tmp_path) as port:
        engine.between_rounds(wait)
        assert held.wait(60)
        said = [{"role": "user", "content": TEXT * 9}, {"role": "assistant", "content": "A"}]
        with asking(port, "/v1/memories", {"messages": said}):
            eventually(lambda: engine.state.waiting == 1)
        counted = 'ringworld_http_requests_total{path="/v1/memories",status="499"}'
        eventually(lambda: counted in send(port, "/metrics")[1])
        time.sleep(0.3)  # More than the thread that reads waits before it looks again.
        over.set()
        eventually(lambda: engine.state.waiting == engine.state.running == 0)
    assert engine.state.read_tokens == read
    assert [*tmp_path.iterdir()] == []


def test_requests_beyond_those_that_are_answered_at_once_are_refused(engine):
    long = {"prompt": [7], "max_tokens": 500, "stream": True, "temperature": 0}
    with serving(engine, limits={"max_requests": 1}) as port:
        with asking(port, "/v1/completions", long) as connection:
            assert connection.getresponse().readline().startswith(b"data:")
            status, answered = send(port, "/v1/models")
            assert (status, answered["error"]["code"]) == (429, "too_many_requests")
            assert send(port, "/health")[0] == send(port, "/metrics")[0] == 200
        eventually(lambda: send(port, "/v1/models")[0] == 200)


def test_connections_that_ask_nothing_keep_nobody_out(engine):
    with serving(engine, limits={"max_requests": 1}) as port, ExitStack() as stack:
        for _ in range(8):
            idle = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            idle.sendall(b"GET /v1/models HTTP/1.1\r\n")
        assert send(port, "/health")[0] == send(port, "/v1/models")[0] == 200


def test_more_than_can_wait_is_refused_and_what_waits_is_answered(port):
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda i: complete(port, prompt=[5 + i], max_tokens=60), range(24)))
    statuses = [status for status, _ in answers]
    assert set(statuses) == {200, 429}
    refused = next(answered for status, answered in answers if status == 429)
    assert refused["error"]["code"] == "queue_full"
    assert statuses.count(200) >= 4


def test_whoever_has_no_key_is_refused(engine):
    with serving(engine, keys=("first-key", "second-key")) as port:
        assert send(port, "/health")[0] == 200
        for headers in ({}, {"Authorization": "Bearer other-key"}, {"Authorization": "first-key"}):
            for path in ("/v1/models", "/metrics"):
                status, answered = send(port, path, headers=headers)
                assert (status, answered["error"]["code"]) == (401, "invalid_api_key")
        for key in ("first-key", "second-key"):
            assert send(port, "/v1/models", headers={"Authorization": f"Bearer {key}"})[0] == 200


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"host": "0.0.0.0"}, "host"),
        ({"host": "example.org"}, "host"),
        ({"keys": ("short",)}, "keys"),
        ({"keys": ("with\nline-break",)}, "keys"),
        ({"port": 70_000}, "port"),
    ],
)
def test_a_server_that_should_not_be_is_refused(config, field):
    with pytest.raises(InputError) as refused:
        ServingConfig(name="tiny", **config)
    assert refused.value.field == field
    assert ServingConfig(name="tiny", host="::1").loopback
    assert not ServingConfig(name="tiny", host="0.0.0.0", without_key=True).loopback


def test_the_page_loads_nothing_from_elsewhere_and_runs_nothing_but_its_own(engine):
    with serving(engine, keys=("first-key",)) as port:
        for path in ("/", "/page.css", "/page.js"):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("GET", path)
            response = connection.getresponse()
            content, headers = response.read().decode(), response.headers
            connection.close()
            assert response.status == 200
            policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
            assert policy["default-src"] == "'none'"
            assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
            assert policy["frame-ancestors"] == "'none'"
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert "//" not in content.replace("// ", "").replace("<!doctype", "")
            # What would make markup of what a model writes.
            assert not any(name in content for name in ("innerHTML", "insertAdjacentHTML", "eval(", "style="))
        assert send(port, "/page/../app.py")[0] == 404
