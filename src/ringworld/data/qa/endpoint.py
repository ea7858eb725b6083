"""A model behind an API in OpenAI's form: asked patiently, and no faster than it likes."""

import random
import threading
import time
from typing import Any

import httpx2

from ringworld.core.errors import InputError
from ringworld.data.qa.config import QaConfig
from ringworld.data.qa.replies import RefusedError, Reply

_AGAIN = (408, 409, 425, 429, 500, 502, 503, 504, 529)
"""What a later request may find otherwise."""
_REFUSED = (400, 413, 422)
"""What another prompt may find otherwise: this one may be too long, or of a kind that is not answered."""
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 1.0, 60.0
_LONGEST_ASKED_SECONDS = 600.0
"""Longest wait that an endpoint may ask for."""
_SHOWN = 200


class Endpoint:
    """One model behind an address, which several threads may ask."""

    def __init__(self, config: QaConfig, *, key: str | None) -> None:
        """Open connections when they are needed.

        Args:
            config: which model, where, and how often a request is repeated.
            key: shown with each request, if there is one.

        Raises:
            InputError: the key cannot stand in a request.
        """
        if key is not None and not (key.isascii() and key.isprintable()):
            problem = f"the key in ${config.key_variable} holds what no request can show"
            raise InputError(
                problem, field="key_variable", remedy="copy it again, without blanks and line ends"
            )
        self._config = config
        self._client = httpx2.Client(
            headers={} if key is None else {"Authorization": f"Bearer {key}"},
            timeout=config.timeout_seconds,
            limits=httpx2.Limits(max_connections=config.requests_at_once),
        )
        self._url = f"{config.address.rstrip('/')}/chat/completions"
        self._stopped = threading.Event()
        self._lock, self._may_begin = threading.Lock(), 0.0

    def body(self, prompt: str) -> dict[str, Any]:
        """Return what is sent."""
        return {
            "model": self._config.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": self._config.temperature,
            self._config.reply_limit: self._config.max_reply_tokens,
        }

    def reply(self, prompt: str) -> Reply:
        """Return the reply to one request, which is repeated while the endpoint is busy.

        Raises:
            RefusedError: the endpoint refuses this request.
            InputError: it refuses all of them, answers in another form, or cannot be reached for long.
        """
        body = self.body(prompt)
        wait, problem = 0.0, ""
        for attempt in range(self._config.retries + 1):
            self._wait(wait)
            self._wait(self._until_next())
            wait = min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2**attempt) * random.uniform(0.5, 1.0)
            try:
                response = self._client.post(self._url, json=body)
            except httpx2.RequestError as error:
                problem = f"cannot be reached ({error or type(error).__name__})"
                continue
            if response.is_success:
                return self._read(response)
            problem = f"answers with {response.status_code}: {_said(response)}"
            if response.status_code in _REFUSED:
                raise RefusedError(f"address {self._config.address} {problem}", field="address")
            if response.status_code not in _AGAIN:
                raise self._wrong(problem, remedy=self._remedy(response.status_code))
            wait = _asked_wait(response, otherwise=wait)
        remedy = "the same command later asks only what is not answered yet"
        raise self._wrong(f"{problem}, after {self._config.retries + 1} requests", remedy=remedy)

    def stop(self) -> None:
        """Begin no further request: whoever waits to do so gets an error."""
        self._stopped.set()

    def close(self) -> None:
        """End all connections."""
        self.stop()
        self._client.close()

    def _until_next(self) -> float:
        """Return in how many seconds the next request may be sent, which is then taken."""
        rate = self._config.requests_per_minute
        with self._lock:
            now = time.monotonic()
            begins = max(now, self._may_begin)
            self._may_begin = begins + (60 / rate if rate else 0.0)
        return begins - now

    def _wait(self, seconds: float) -> None:
        if self._stopped.wait(seconds):
            raise self._wrong("is not asked any more")

    def _read(self, response: httpx2.Response) -> Reply:
        try:
            value = response.json()
            text = value["choices"][0]["message"]["content"] or ""
            usage = value.get("usage") or {}
            counts = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
            text.encode()
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
            raise self._wrong(f"answers in another form than OpenAI's: {_said(response)}") from None
        return Reply(text=text, prompt_tokens=counts[0], reply_tokens=counts[1])

    def _remedy(self, status: int) -> str:
        if status in (401, 403):
            return f"set ${self._config.key_variable} to its key"
        return "check address and model" if status in (404, 405) else ""

    def _wrong(self, problem: str, *, remedy: str = "") -> InputError:
        address = self._config.address
        return InputError(f"address {address} {problem}", field="address", value=address, remedy=remedy)


def _said(response: httpx2.Response) -> str:
    """Return the beginning of what an endpoint says of an error, in one line."""
    return " ".join(response.text.split())[:_SHOWN] or "nothing"


def _asked_wait(response: httpx2.Response, *, otherwise: float) -> float:
    """Return the seconds after which an endpoint wants to be asked again, where it says so."""
    try:
        return min(_LONGEST_ASKED_SECONDS, max(0.0, float(response.headers["retry-after"])))
    except (KeyError, ValueError):  # or it says a date
        return otherwise
