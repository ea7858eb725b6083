"""Whatever bytes come, the answer is none of an error of ours, and nothing stays behind."""

import asyncio
import http.client
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.types import Message

from ringworld.core.errors import InputError
from ringworld.inference.config import EngineConfig
from ringworld.serving.errors import ApiError, refusal
from ringworld.serving.form import parse_form
from ringworld.serving.in_flight import InFlight
from ringworld.serving.metrics import ServerMetrics
from tests.eventually import eventually
from tests.serving.test_drawing import fetch, form
from tests.serving.test_server import WORLD, picture, send, serving

LIMITS = {"max_body_bytes": 100_000, "max_choices": 4, "max_frames": 2, "max_videos": 1, "max_files": 1}
SAID = [{"role": "user", "content": "A"}]
DRAWN = {"type": "image_url", "image_url": {"url": picture()}, "content_offset": 1}
SENT: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "messages": [*SAID, {"role": "assistant", "content": "ab", "images": [DRAWN]}, *SAID],
        **{"max_tokens": 2, "max_frames": 2, "fps": 1, "ignore_eos": True},
        **{"modalities": ["image"], "stream": False, "n": 1, "stop": "b"},
        **{"seed": 1, "logprobs": True, "top_logprobs": 1, "stream_options": {"include_usage": True}},
        **{"memory": None, "temperature": 1, "guidance_scale": 1, "num_frames": 1, "model": "tiny"},
    },
    "/v1/completions": {
        **{"prompt": "A", "max_tokens": 2, "echo": True, "logprobs": 1, "top_p": 0.5, "min_p": 0.1},
        **{"top_k": 3, "repetition_penalty": 1.1, "best_of": 1, "logit_bias": {}},
    },
    "/v1/images/generations": {
        **{"prompt": "A", "size": "auto", "n": 1, "partial_images": 1, "stream": True, "quality": "high"},
        **{"response_format": "b64_json", "guidance_scale": 1, "seed": 1},
    },
    "/v1/videos/sync": {
        **{"prompt": "A", "num_frames": 1, "seconds": "1", "fps": 1, "size": "4x4"},
        **{"input_reference": {"file_id": "file-0", "image_url": "a"}},
    },
    "/v1/memories": {"messages": SAID, "name": "a"},
    "/tokenize": {"prompt": "A", "messages": SAID, "add_special_tokens": True},
    "/detokenize": {"tokens": [5]},
}
EDGES = st.sampled_from([-1, 0, 1, 2**31, 2**63, -(2**63), 10**300, 0.5, -0.0, 5e-324, 1e308])
JSON = st.recursive(
    st.none() | st.booleans() | EDGES | st.text(st.characters(), max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
LATIN = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=40)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("memories")
    with (
        WORLD.engine(EngineConfig(max_sequences=4, chunk_tokens=64)) as engine,
        serving(engine, limits=LIMITS, memory_folder=folder) as port,
    ):
        yield engine, port
        eventually(lambda: engine.state.running == engine.state.waiting == engine.state.held_pages == 0)
        assert send(port, "/health")[0] == 200


@st.composite
def bodies(draw) -> tuple[str, dict[str, Any]]:
    """Return a path and what it is sent, of which one to three values, at any depth, are others."""
    path = draw(st.sampled_from(sorted(SENT)))
    body: Any = json.loads(json.dumps(SENT[path]))
    for _ in range(draw(st.integers(1, 3))):
        at = body
        name = draw(st.sampled_from(sorted(at)))
        while isinstance(at[name], dict | list) and at[name] and draw(st.booleans()):
            at = at[name]
            name = draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        at[name] = draw(JSON)
    return path, body


@given(sent=bodies())
@settings(max_examples=80)
@example(sent=("/v1/chat/completions", {"messages": [{"role": "user", "content": "\ud800"}]}))
@example(sent=("/v1/images/generations", {"prompt": "\ud800"}))
def test_any_json_is_answered_or_refused_by_its_field(served, sent):
    path, body = sent
    content = json.dumps(body).encode()
    status, _, answered = fetch(
        served[1], path, method="POST", body=content, **{"Content-Type": "application/json"}
    )
    assert status < 500
    if status >= 400:
        error = json.loads(answered)["error"]
        assert error["message"]
        assert set(error) == {"message", "type", "param", "code"}


def test_numbers_that_overflow_are_answered_in_numbers(served):
    most = 1e300
    asked = {
        **{"messages": SAID, "modalities": ["image"], "logprobs": True, "top_logprobs": 5, "max_tokens": 12},
        **{"guidance_scale": most, "temperature": most, "repetition_penalty": most, "seed": 3},
    }
    status, _, answered = fetch(
        served[1],
        "/v1/chat/completions",
        method="POST",
        body=json.dumps(asked).encode(),
        **{"Content-Type": "application/json"},
    )
    assert status == 200
    # Python's reader takes NaN, which is not JSON.
    (choice,) = json.loads(answered, parse_constant=pytest.fail)["choices"]
    assert choice["message"]["images"]
    for token in choice["logprobs"]["content"]:
        nats = [each["logprob"] for each in token["top_logprobs"]]
        assert nats and all(-9999 <= each <= 0 for each in (*nats, token["logprob"]))
    drawn = choice["logprobs"]["content"][0]["top_logprobs"]
    assert len(drawn) == 5
    # After the last code there is one that may follow.
    assert min(len(token["top_logprobs"]) for token in choice["logprobs"]["content"]) == 1


def test_a_name_that_no_response_could_hold_is_not_kept(served):
    said = [{"role": "user", "content": "A red circle. " * 9}, {"role": "assistant", "content": "Right."}]
    status, answered = send(served[1], "/v1/memories", {"messages": said, "name": "\ud800"})
    assert (status, answered["error"]["param"]) == (400, "name")
    assert send(served[1], "/v1/memories")[1]["data"] == []


def test_no_path_of_the_server_is_shown():
    path = Path("/srv/models/secret/tokenizer_config.json")
    problem = f"the chat template in {path} cannot be used"
    answered = refusal(InputError(problem, field="chat_template", path=path)).body
    assert b"tokenizer_config.json" in answered
    assert b"secret" not in answered


def test_a_client_that_reads_no_further_loses_its_place(served):
    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    async def ask() -> list[Message]:
        sent: list[Message] = []
        limited = InFlight(never, most=1, most_seconds=0.05, metrics=ServerMetrics(served[0]))

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            return {}

        scope = {"type": "http", "path": "/v1/completions"}
        await asyncio.gather(*(limited(scope, receive, send) for _ in range(2)))
        await limited(scope, receive, send)
        return sent

    # Of the two that came together one was refused, and the third found the place of the other.
    starts = [each["status"] for each in asyncio.run(ask()) if each["type"] == "http.response.start"]
    assert starts == [429]


def test_a_value_that_is_nested_as_deeply_as_json_may_be_is_refused(served):
    # Near the depth at which Python gives up, which is another where it is read than where it is shown.
    for depth in range(800, 1000, 4):
        raw = b'{"prompt": "A", "temperature": ' + b"[" * depth + b"]" * depth + b"}"
        assert send(served[1], "/v1/completions", raw=raw)[0] == 400


PREFIXES = ["/", "/v1/", "/v1/files/", "/v1/videos/", "/v1/videos/a/frames/", "/v1/memories/", "/v1/models/"]


@given(prefix=st.sampled_from(PREFIXES), rest=st.text(st.characters(), max_size=30), method=st.booleans())
@settings(max_examples=100)
@example(prefix="/v1/files/", rest="../../../etc/passwd", method=True)
@example(prefix="/v1/memories/", rest="memory_" + "0" * 32 + "/..", method=False)
@example(prefix="/v1/videos/a/frames/", rest="9" * 5000, method=True)
@example(prefix="/v1/videos?limit=", rest="9" * 5000, method=True)
@example(prefix="/v1/videos?order=asc&after=", rest="\x00", method=True)
def test_any_path_is_known_or_is_not(served, prefix, rest, method):
    connection = http.client.HTTPConnection("127.0.0.1", served[1], timeout=60)
    # "surrogatepass": what no text holds is sent, too.
    path = prefix + quote(rest.encode("utf-8", "surrogatepass"), safe="/.")
    connection.request("GET" if method else "DELETE", path)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    if path == "/" and method:
        return
    assert response.status in (400, 404, 405)
    assert json.loads(content)["error"]["message"]


NAMES = ["Host", "Origin", "Authorization", "Accept", "Cookie", "Content-Type", "X-Forwarded-For", "Range"]


@given(headers=st.dictionaries(st.sampled_from(NAMES), LATIN, max_size=3))
@settings(max_examples=100)
@example(headers={"Origin": "http://["})
@example(headers={"Host": "[::1"})
@example(headers={"Content-Type": "multipart/form-data; boundary*0*=a'b'%ff"})
def test_any_headers_are_taken_or_refused(served, headers):
    for kind, raw in (
        ("multipart/form-data; boundary=xyz", form({"purpose": "a"})),
        ("application/json", b'{"tokens": [5]}'),
    ):
        path = "/v1/files" if raw.startswith(b"-") else "/detokenize"
        sent = {"Content-Type": kind, **{name: value.strip() for name, value in headers.items()}}
        status, answered = send(served[1], path, raw=raw, headers=sent)
        # What is no HTTP is refused by the server of HTTP, in its own words.
        assert status in (200, 400, 403, 415)
        assert status == 200 or isinstance(answered, str) or answered["error"]["message"]


def parsed(kind: str, body: bytes) -> Any:
    """Return the parts of a form; None where it is refused."""
    try:
        return parse_form(kind, body)
    except ApiError as refused:
        assert refused.status == 400
        return None


@given(
    texts=st.dictionaries(st.text("abc[]", min_size=1, max_size=5), st.text(max_size=20), max_size=3),
    file=st.binary(max_size=80),
    cut=st.integers(0, 400),
    put=st.binary(max_size=9)
    | st.sampled_from([b"\r\n", b"--xyz", b"\r\n\r\n", b'"; filename*=', b"\x00''"]),
)
@settings(max_examples=300)
def test_a_form_is_read_as_it_was_sent_and_any_other_refused_or_read(texts, file, cut, put):
    kind, body = "multipart/form-data; boundary=xyz", form(texts, file=file)
    found = parse_form(kind, body)
    assert (found.texts, found.files["input_reference"].content) == (texts, file)
    for changed in (body[:cut] + put + body[cut:], body[:cut] + body[cut + len(put) :]):
        found = parsed(kind, changed)
        assert found is None or all(isinstance(text, str) for text in found.texts.values())


@given(kind=LATIN | LATIN.map("multipart/form-data; boundary{}".format), name=LATIN)
@settings(max_examples=300)
@example(kind="multipart/form-data; boundary*=a\x00b''xyz", name="\"a\"; filename*=a\x00b''x")
@example(kind="multipart/form-data; boundary*0=x; boundary*1=yz", name='"a"; filename*0*=%ff')
@example(kind="multipart/form-data; boundary*=idna''xyz", name="\"a\"; filename*=idna''x")
def test_any_header_of_a_form_and_of_its_parts_is_refused_or_read(kind, name):
    parsed(kind, form({"a": "1"}))
    body = f"--xyz\r\nContent-Disposition: form-data; name={name}\r\n\r\n1\r\n--xyz--\r\n".encode()
    found = parsed("multipart/form-data; boundary=xyz", body)
    for upload in () if found is None else found.files.values():
        assert upload.name.isprintable() and "/" not in upload.name
