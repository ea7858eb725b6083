"""An endpoint in OpenAI's form on a real socket, which asks who the captain of a ship in a passage is."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_BEGINNINGS = ("Ber", "Cal", "Dor", "Fen", "Gil", "Hev", "Jom", "Kur", "Lan", "Mir")
SHIPS = [f"{begins}{ends}" for begins in _BEGINNINGS for ends in ("a", "ona", "ix", "us", "ey", "ard")]
SENTENCE = re.compile(r"The captain of the ship (\w+) was (\w+ \w+)\.")


def story(ships: list[str] = SHIPS, *, filler: int = 2) -> str:
    """Return a text with a captain for each ship, far apart."""
    between = "Rain fell upon the harbor and nobody spoke of it. " * filler
    return "".join(
        f"The captain of the ship {ship} was {ship.upper()} Brown. {between}\n\n" for ship in ships
    )


def captain(prompt: str) -> str:
    """Ask for the first captain of a passage."""
    found = SENTENCE.search(prompt)
    if found is None:
        return "I cannot think of a question."
    return f"Question: Who was the captain of the ship {found[1]}?\nAnswer: {found[2]}"


class Double:
    """What the double was asked, and how it answers."""

    def __init__(self) -> None:
        self.write: Callable[[str], str] = captain
        self.failures: list[tuple[int, dict[str, str]]] = []
        """Statuses and headers of the first answers."""
        self.raw: bytes | None = None
        """In place of an answer."""
        self.prompts: list[str] = []
        """Those that were answered."""
        self.bodies: list[dict] = []
        self.keys: list[str | None] = []
        self.times: list[float] = []
        self.address = ""


@contextmanager
def serving() -> Iterator[Double]:
    double, lock = Double(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                double.times.append(time.monotonic())
                double.keys.append(self.headers.get("Authorization"))
                double.bodies.append(body)
                status, headers = double.failures.pop(0) if double.failures else (200, {})
                prompt = body["messages"][0]["content"]
                content = double.raw or json.dumps({"error": {"message": "not now"}}).encode()
                if status == 200 and double.raw is None:
                    double.prompts.append(prompt)
                    message = {"role": "assistant", "content": double.write(prompt)}
                    usage = {"prompt_tokens": 100, "completion_tokens": 10}
                    content = json.dumps({"choices": [{"message": message}], "usage": usage}).encode()
            if self.path != "/v1/chat/completions":
                status = 404
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    double.address = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield double
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
