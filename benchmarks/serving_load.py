"""A server that many use at once, some of whom go away and some of whom mean harm.

    python benchmarks/serving_load.py > benchmarks/results/serving_load.json

1,000 requests, 64 at a time, to `ringworld serve` with a small model of random weights: each is an
answer that was asked for alone before, and must be the same now; a fifth are cancelled at a random moment; a
tenth are hostile bodies, each of which must be refused. The cache is too small for sixteen at once, so that
many give up their pages and are read again. Afterwards the server must hold nothing of them, and answer as
before. Its memory is looked at while it runs.
"""

import argparse
import http.client
import json
import random
import re
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

from random_model import WORDS, random_model
from served import free_port, ringworld, served

from ringworld.core.origin import machine, versions
from ringworld.model.config import Architecture

REQUESTS, CONNECTIONS, CANCELLED, HOSTILE = 1000, 64, 0.2, 0.1
QUESTIONS = 48
CACHE_TOKENS = 1024
"""One context: sequences that grow take each other's pages."""
PATIENCE_SECONDS = 120.0
SHAPE = dict(layers=2, embed=128, heads=4, kv_heads=2, head=32, mlp=256, text_vocab=512)
BODIES = (
    b"",
    b"{",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"messages": 3}',
    b'{"messages": []}',
    b'{"messages": [{"role": "root", "content": "a"}]}',
    b'{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "file:///a"}]}]}',
    b'{"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "../../a"}}]}]}',
    b'{"messages": [{"role": "user", "content": "a"}], "temperature": 1e999}',
    b'{"messages": [{"role": "user", "content": "a"}], "max_tokens": 99999999999999999999999}',
    b'{"messages": [{"role": "user", "content": "a"}], "memory": "../../etc"}',
    b'{"messages": [{"role": "user", "content": "' + b"a " * 100_000 + b'"}]}',
)


def questions(draws: random.Random) -> list[dict]:
    """Return requests of mixed lengths, some of which begin alike."""
    words = WORDS.split()
    book = " ".join(draws.choices(words, k=60))
    texts = [f"{i} {' '.join(draws.choices(words, k=draws.randint(1, 80)))}" for i in range(QUESTIONS)]
    return [
        {
            "messages": [{"role": "user", "content": f"{book} {text}" if i % 3 == 0 else text}],
            "max_tokens": draws.randint(1, 120),
            "temperature": draws.choice((0, 1)),
            "seed": i,
            "stream": i % 2 == 0,
        }
        for i, text in enumerate(texts)
    ]


def asked(port: int, body: bytes) -> tuple[int, str]:
    """Return the status and the text of an answer."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)) as connection:
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        content = response.read()
    if response.status != 200:
        return response.status, content.decode()
    if response.headers["Content-Type"].startswith("application/json"):
        return 200, json.loads(content)["choices"][0]["message"]["content"]
    lines = [line[6:] for line in content.decode().splitlines() if line.startswith("data: {")]
    deltas = (choice["delta"] for line in lines for choice in json.loads(line)["choices"])
    return 200, "".join(delta.get("content", "") for delta in deltas)


def cancelled(port: int, body: bytes, *, after: float) -> None:
    """Ask, and go away."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    time.sleep(after)
    connection.close()


def metrics(port: int) -> dict[str, float]:
    """Return what the server says of itself."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[:1] != "#")}


def resident_bytes(process: int) -> int:
    """Return the memory of a process."""
    status = Path(f"/proc/{process}/status").read_text()
    found = re.search(r"VmRSS:\s*(\d+) kB", status)
    assert found is not None
    return 1024 * int(found.group(1))


def load(port: int, process: int, *, requests: int) -> dict:
    """Ask all, and return what became of them."""
    draws = random.Random(0)
    bodies = [json.dumps(each).encode() for each in questions(draws)]
    expected = [asked(port, body) for body in bodies]
    assert all(status == 200 for status, _ in expected), expected
    kinds = draws.choices(
        ("answer", "cancel", "hostile"), (1 - CANCELLED - HOSTILE, CANCELLED, HOSTILE), k=requests
    )
    jobs = iter(
        [(kind, draws.randrange(QUESTIONS), draws.uniform(0, 2), draws.choice(BODIES)) for kind in kinds]
    )
    counts, wrong, memory = Counter(), [], [resident_bytes(process)]
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                job = next(jobs, None)
                memory.append(resident_bytes(process))
            if job is None:
                break
            kind, index, after, body = job
            try:
                if kind == "cancel":
                    cancelled(port, bodies[index], after=after)
                    outcome = "cancelled"
                elif kind == "hostile":
                    status, told = asked(port, body)
                    outcome = (
                        "hostile, refused" if 400 <= status < 500 and "error" in told else "hostile, taken"
                    )
                else:
                    answer = asked(port, bodies[index])
                    outcome = "answered as alone" if answer == expected[index] else "answered otherwise"
                    if answer != expected[index]:
                        wrong.append({"question": index, "alone": expected[index], "now": answer})
            except (OSError, http.client.HTTPException) as error:
                outcome = f"{kind}: {type(error).__name__}"
            with lock:
                counts[outcome] += 1

    begun = time.monotonic()
    threads = [threading.Thread(target=work) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - begun
    until = time.monotonic() + PATIENCE_SECONDS
    held = ("ringworld_running_requests", "ringworld_waiting_requests", "ringworld_cache_held_pages")
    while any(metrics(port)[name] for name in held) and time.monotonic() < until:
        time.sleep(0.1)
    after = [asked(port, body) for body in bodies]
    quarter = len(memory) // 4
    said = metrics(port)
    return {
        "requests": requests,
        "connections": CONNECTIONS,
        "seconds": seconds,
        "outcomes": dict(counts),
        "answered_as_before_afterwards": sum(one == other for one, other in zip(after, expected)),
        "questions": QUESTIONS,
        "left_behind": {name: said[name] for name in held},
        "preemptions": said["ringworld_preemptions_total"],
        "tokens_written": said["ringworld_generation_tokens_total"],
        "resident_bytes": {
            "before": memory[0],
            "most_of_first_quarter": max(memory[:quarter]),
            "most_of_last_quarter": max(memory[-quarter:]),
            "at_the_end": resident_bytes(process),
        },
        "answered_otherwise": wrong[:5],
    }


def main() -> None:
    """Serve, ask, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    requests = parser.parse_args().requests
    with tempfile.TemporaryDirectory() as work:
        model = random_model(Path(work) / "model", Architecture(**SHAPE))
        options = ("--cache-tokens", str(CACHE_TOKENS), "--max-body-bytes", "150000")
        port, log = free_port(), Path(work) / "log"
        with served(ringworld(model, *options, port=port), port=port, log=log) as server:
            made = load(port, server.pid, requests=requests)
        said = log.read_text()
    record = {
        "command": "python benchmarks/serving_load.py",
        "versions": versions("ringworld", "jax", "jaxlib", "numpy", "starlette", "uvicorn"),
        "machine": machine(),
        "shape": SHAPE,
        "options": options,
        "result": made,
        "said": said[-2000:],
    }
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
