"""A server in a process of its own, for as long as something asks it."""

import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

_PATIENCE_SECONDS = 600.0


def free_port() -> int:
    """Return a port of loopback at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def ringworld(model: Path, *options: str, port: int) -> list[str]:
    """Return the command that serves a model."""
    return [sys.executable, "-m", "ringworld", "serve", "--model", str(model), "--port", str(port), *options]


@contextmanager
def served(command: Sequence[str], *, port: int, log: Path) -> Iterator[subprocess.Popen]:
    """Run a server; it answers once the block begins, and is ended after it. What it says is in `log`."""
    with log.open("w") as said, subprocess.Popen(command, stdout=said, stderr=said) as process:
        try:
            until = time.monotonic() + _PATIENCE_SECONDS
            while not _is_healthy(port):
                if process.poll() is not None or time.monotonic() > until:
                    raise SystemExit(f"{' '.join(command)} does not serve: {log.read_text()[-2000:]}")
                time.sleep(0.2)
            yield process
        finally:
            process.terminate()


def _is_healthy(port: int) -> bool:
    try:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
