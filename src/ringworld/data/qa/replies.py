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


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """What an endpoint says of a request that it does not answer, whenever it is asked."""

    reason: str


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

    A line of the file is one reply or refusal, by the hash of the request that it answers. It is written as
    soon as it is there, so that a killed process loses those alone that it waited for. Refusals wait for the
    first reply: an endpoint that has answered nothing yet may refuse all, until it is started otherwise.
    """

    def __init__(self, path: Path, endpoint: Asks) -> None:
        """Read what is there.

        Raises:
            InputError: the file is damaged before its last line.
        """
        # Without half a line of a kill.
        keep_jsonl(path, lambda row: "request" in row and not row.keys().isdisjoint(("reply", "refused")))
        self._known: dict[str, Reply] = {}
        self._refused: dict[str, Refusal] = {}
        for row in read_jsonl(path):
            if "reply" in row:
                self._known[row["request"]] = from_json(Reply, row["reply"], where=path)
            else:
                self._refused[row["request"]] = Refusal(reason=str(row["refused"]))
        self._path, self._endpoint, self._lock = path, endpoint, threading.Lock()
        self._unwritten: dict[str, Refusal] = {}
        self.asked: list[Reply] = []
        """Those that this object asked for."""

    def __len__(self) -> int:
        return len(self._known)

    @property
    def refused(self) -> int:
        """How many requests are refused."""
        return len(self._refused)

    def known(self, prompt: str, *, attempt: int) -> Reply | Refusal | None:
        """Return the reply to a prompt, or its refusal, if it is there."""
        name = self._name(prompt, attempt)
        return self._known.get(name) or self._refused.get(name)

    def ask(self, prompt: str, *, attempt: int) -> Reply:
        """Return the reply to a prompt, which is asked for where it is not there.

        Raises:
            RefusedError: the endpoint refuses this request, now or when it was asked before.
            InputError: the endpoint does not give it.
        """
        known, name = self.known(prompt, attempt=attempt), self._name(prompt, attempt)
        if isinstance(known, Refusal):
            raise RefusedError(known.reason, field="address")
        if known is not None:
            return known
        try:
            reply = self._endpoint.reply(prompt)
        except RefusedError as error:
            refusal = Refusal(reason=error.problem)
            with self._lock:
                self._refused[name] = self._unwritten[name] = refusal
                self._write_refusals()
            raise
        with self._lock:
            append_jsonl(self._path, {"request": name, "reply": asdict(reply)})
            self._known[name] = reply
            self.asked.append(reply)
            self._write_refusals()
        return reply

    def _write_refusals(self) -> None:
        if self._known:
            for name, refusal in self._unwritten.items():
                append_jsonl(self._path, {"request": name, "refused": refusal.reason})
            self._unwritten.clear()

    def stop(self) -> None:
        """Ask for nothing more."""
        self._endpoint.stop()

    def _name(self, prompt: str, attempt: int) -> str:
        request = [self._endpoint.body(prompt), attempt]
        return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
