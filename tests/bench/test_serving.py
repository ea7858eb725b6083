"""A real server under a small load, and load that is drawn."""

import io
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from ringworld.bench.load import Load, asks_of
from ringworld.bench.serving import bench_serving
from ringworld.core.errors import InputError
from ringworld.inference.config import EngineConfig
from tests.serving.test_server import WORLD, serving

LOAD = Load(requests=6, concurrency=3, prompt_tokens=60, new_tokens=8, sigma=0.3, shared_tokens=100)


@pytest.fixture(scope="module")
def engine():
    with WORLD.engine(EngineConfig(max_sequences=2, chunk_tokens=64, max_waiting=3)) as made:
        yield made


def test_a_server_is_measured_by_what_it_counts(engine, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "a-long-key")
    before = engine.state
    with serving(engine, keys=("a-long-key",)) as port:
        made = bench_serving(f"http://127.0.0.1:{port}/v1/", LOAD)
    after = engine.state
    assert (made.model, made.failures, len(made.answered)) == ("tiny", {}, 6)
    told = json.loads(made.json(command="the command"))
    assert told["requests"] == {"asked": 6, "answered": 6, "failed": {}}
    # The one before the run asked for a token.
    assert told["tokens"]["new_tokens"] == after.written_tokens - before.written_tokens - 1
    assert told["tokens"]["reused_tokens"] == after.reused_tokens - before.reused_tokens > 0
    for name, numbers in told["seconds_of"].items():
        assert 0 < numbers["p50"] <= numbers["p90"] <= numbers["p99"] < 60, name
    for answer in made.answers:
        assert answer.began is not None
        assert 0 <= answer.asked < answer.began <= answer.ended <= made.seconds
        assert answer.new_tokens - len(answer.gaps) in (0, 1)
    assert told["rates"]["requests_per_second"] == pytest.approx(6 / made.seconds)
    with Image.open(io.BytesIO(made.picture())) as image:
        assert image.format == "PNG"
    assert len(made.table().splitlines()) == 6


def test_what_is_refused_is_counted_by_its_reason(engine):
    with serving(engine) as port:
        made = bench_serving(f"http://127.0.0.1:{port}", Load(requests=20, rate=1e5, prompt_tokens=60))
    ((reason, count),) = made.failures.items()
    assert reason.startswith("429")
    assert count + len(made.answered) == 20
    assert reason in made.table()
    assert json.loads(made.json(command=""))["requests"]["failed"] == {reason: count}


def test_what_is_no_server_is_refused():
    class Other(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"[]")

        def log_message(self, format, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for url in (
            f"http://127.0.0.1:{server.server_port}",
            "http://127.0.0.1:1",
            "ftp://a",
            "a",
            "http://[",
            "",
        ):
            with pytest.raises(InputError) as refused:
                bench_serving(url, Load())
            assert (refused.value.field, refused.value.value) == ("url", url)
        server.shutdown()


def test_a_server_of_a_named_model_need_not_name_it_and_says_why_it_refuses():
    said = "no such model"

    class Other(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            taken = asked["model"] == "a/b"
            self.send_response(200 if taken else 422)
            self.end_headers()
            if not taken:
                self.wfile.write(json.dumps({"detail": said}).encode())
                return
            for choice, usage in (
                ({"delta": {"role": "assistant"}}, None),
                ({"delta": {"content": "A"}}, None),
                ({"delta": {}, "finish_reason": "stop"}, {"prompt_tokens": 3, "completion_tokens": 1}),
            ):
                event = {"choices": [choice], "usage": usage}
                self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())

        def log_message(self, format, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        made = bench_serving(url, Load(requests=3, model="a/b"))
        with pytest.raises(InputError) as refused:
            bench_serving(url, Load(requests=3, model="other"))
        server.shutdown()
    assert (made.model, made.failures) == ("a/b", {})
    assert [(each.prompt_tokens, each.new_tokens) for each in made.answers] == [(3, 1)] * 3
    assert (refused.value.field, refused.value.value) == ("url", url)
    assert said in str(refused.value)


def test_load_is_the_same_for_a_seed_and_begins_alike_where_it_is_shared():
    load = Load(requests=400, rate=20.0, prompt_tokens=100, sigma=0.5, shared_tokens=30, prefixes=3)
    asked = asks_of(load, tokens_per_word=1.5)
    assert asked == asks_of(load, tokens_per_word=1.5)
    beginnings = Counter(" ".join(ask.prompt.split()[:20]) for ask in asked)
    assert len(beginnings) == 3 and min(beginnings.values()) > 90
    own = [ask.prompt.split()[20:] for ask in asked]
    assert len({words[0] for words in own}) == 400
    assert np.median([len(words) for words in own]) == pytest.approx(100 / 1.5, rel=0.1)
    gaps = [after.at - before.at for before, after in pairwise(asked)]
    assert np.mean(gaps) == pytest.approx(1 / 20, rel=0.15)
    assert np.std(gaps) == pytest.approx(1 / 20, rel=0.25)
    closed = asks_of(Load(requests=3, sigma=0.0, new_tokens=7), tokens_per_word=1.0)
    assert [(ask.at, ask.new_tokens, len(ask.prompt.split())) for ask in closed] == [(0.0, 7, 257)] * 3


@pytest.mark.parametrize(
    "changed",
    [{"requests": 0}, {"rate": -1.0}, {"prefixes": 0}, {"timeout_seconds": 0.0}, {"sigma": float("nan")}],
)
def test_what_asks_nothing_is_refused(changed):
    with pytest.raises(InputError) as refused:
        Load(**changed)
    assert refused.value.field in changed
