"""Replies that were paid for, kept on disk, so that nothing is asked twice."""

import hashlib
import json
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ringworld.core.config import from_json
from ringworld.core.errors import InputError
from ringworld.core.files import append_jsonl, keep_jsonl, read_jsonl


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What a model wrote, and what it counts."""

    text: str
    prompt_tokens: int
    """As the endpoint counts them; 0 where it does not say."""
    reply_tokens: int


class RefusedError(InputError):
    """An endpoint refuses one request, and may answer another."""


@runtime_checkable
class Asks(Protocol):
    """What `Replies` need of an `Endpoint`."""

    def body(self, prompt: str) -> dict[str, Any]:
        """Return what is sent."""
        ...

    def reply(self, prompt: str) -> Reply:
        """Return the reply to one request."""
        ...

    def stop(self) -> None:
        """Begin no further request."""
        ...


class Replies:
    """The replies of an endpoint, each asked for once, whatever process asks; threads may share it.

    A line of the file is one reply, by the hash of the request that it answers. It is written as soon as it
    is there, so that a killed process loses those alone that it waited for.
    """

    def __init__(self, path: Path, endpoint: Asks) -> None:
        """Read what is there.

        Raises:
            InputError: the file is damaged before its last line.
        """
        keep_jsonl(path, lambda row: {"request", "reply"} <= row.keys())  # without half a line of a kill
        self._known = {row["request"]: from_json(Reply, row["reply"], where=path) for row in read_jsonl(path)}
        self._path, self._endpoint, self._lock = path, endpoint, threading.Lock()
        self.asked: list[Reply] = []
        """Those that this object asked for."""

    def __len__(self) -> int:
        return len(self._known)

    def known(self, prompt: str, *, attempt: int) -> Reply | None:
        """Return the reply to a prompt if it is there."""
        return self._known.get(self._name(prompt, attempt))

    def ask(self, prompt: str, *, attempt: int) -> Reply:
        """Return the reply to a prompt, which is asked for where it is not there.

        Raises:
            InputError: the endpoint does not give it.
        """
        known = self.known(prompt, attempt=attempt)
        if known is not None:
            return known
        reply, name = self._endpoint.reply(prompt), self._name(prompt, attempt)
        with self._lock:
            append_jsonl(self._path, {"request": name, "reply": asdict(reply)})
            self._known[name] = reply
            self.asked.append(reply)
        return reply

    def stop(self) -> None:
        """Ask for nothing more."""
        self._endpoint.stop()

    def _name(self, prompt: str, attempt: int) -> str:
        request = [self._endpoint.body(prompt), attempt]
        return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
