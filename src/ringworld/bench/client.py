"""Who asks a server in the protocol of OpenAI's API, and writes down when each part of an answer came."""

import http.client
import json
import os
import ssl
import time
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from ringworld.bench.load import Ask
from ringworld.core.errors import InputError

KEY_VARIABLE = "OPENAI_API_KEY"
_SHOWN = 200


@dataclass(kw_only=True, slots=True)
class Answer:
    """What came of one request; moments are seconds after the run began."""

    asked: float
    """Moment."""
    began: float | None = None
    """Moment of the first token; None where none came."""
    ended: float = 0.0
    """Moment of the last."""
    prompt_tokens: int = 0
    reused_tokens: int = 0
    """Of the prompt, those that the server had in its cache."""
    new_tokens: int = 0
    gaps: list[float] = field(default_factory=list)
    """Seconds from each piece of the answer to the next."""
    failure: str = ""
    """Why it failed; empty where it did not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Client:
    """Who asks one server, for one model."""

    host: str
    port: int | None
    is_https: bool
    path: str
    model: str
    seconds: float

    @staticmethod
    def at(url: str, *, seconds: float, model: str = "") -> "Client":
        """Find the model of a server.

        Args:
            url: with or without `/v1`.
            seconds: that a request may take.
            model: what requests call it; by default the first that the server names.

        Raises:
            InputError: it is no address, or nothing answers there.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port, parts = None, None, urlsplit("")
        if parts.scheme not in ("http", "https") or not host:
            remedy = "write it as http://127.0.0.1:8000"
            raise InputError(f"{url!r} is no address of HTTP", field="url", value=url, remedy=remedy)
        path = parts.path.rstrip("/").removesuffix("/v1")
        bare = Client(
            host=host, port=port, is_https=parts.scheme == "https", path=path, model=model, seconds=seconds
        )
        if model:
            return bare
        try:
            with closing(bare.connect()) as connection:
                connection.request("GET", f"{path}/v1/models", headers=bare.headers())
                response = connection.getresponse()
                content = response.read()
            if response.status != 200:
                raise ValueError(_reason(response.status, content))
            model = str(json.loads(content)["data"][0]["id"])
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
            problem = f"no server answers at {url} ({error or type(error).__name__})"
            raise InputError(
                problem, field="url", value=url, remedy="start one with ringworld serve"
            ) from None
        return replace(bare, model=model)

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection of one request."""
        if self.is_https:
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(self.host, self.port, timeout=self.seconds, context=context)
        return http.client.HTTPConnection(self.host, self.port, timeout=self.seconds)

    def headers(self) -> dict[str, str]:
        """Return what is sent with each request."""
        key = os.environ.get(KEY_VARIABLE)
        return {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})

    def ask(self, ask: Ask, answer: Answer, *, begun: float) -> None:
        """Ask, and write down in `answer` what comes, and when after `begun`; nothing is raised."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": ask.prompt}],
            "max_tokens": ask.new_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        connection = self.connect()
        try:
            connection.request("POST", f"{self.path}/v1/chat/completions", json.dumps(body), self.headers())
            response = connection.getresponse()
            if response.status != 200:
                answer.failure = _reason(response.status, response.read())
            else:
                self._follow(response, answer, begun=begun)
        except TimeoutError:
            answer.failure = f"no answer within {self.seconds:g} s"
        except (OSError, http.client.HTTPException, ValueError, TypeError, AttributeError) as error:
            answer.failure = f"{type(error).__name__}: {error}"[:_SHOWN]
        finally:
            answer.ended = answer.ended or time.monotonic() - begun
            connection.close()

    def _follow(self, response: http.client.HTTPResponse, answer: Answer, *, begun: float) -> None:
        until, finish, last = time.monotonic() + self.seconds, None, 0.0
        for line in response:
            now = time.monotonic() - begun
            if time.monotonic() > until:
                raise TimeoutError
            text = line.decode("utf-8").strip()
            if not text.startswith("data:") or text == "data: [DONE]":
                continue
            event = json.loads(text.removeprefix("data:"))
            if "error" in event:
                answer.failure = _message(event)
                return
            if usage := event.get("usage"):
                answer.prompt_tokens = usage.get("prompt_tokens", 0)
                answer.new_tokens = usage.get("completion_tokens", 0)
                details = usage.get("prompt_tokens_details") or {}
                answer.reused_tokens = details.get("cached_tokens") or 0
            for choice in event.get("choices", ()):
                finish = choice.get("finish_reason") or finish
                if "role" in choice.get("delta", {}) and not choice["delta"].get("content"):
                    continue  # opens the answer, before any token
                if answer.began is None:
                    answer.began = now
                else:
                    answer.gaps.append(now - last)
                last = answer.ended = now
        if finish is None:
            answer.failure = "the stream ended before the answer did"


def _reason(status: int, content: bytes) -> str:
    try:
        return f"{status}: {_message(json.loads(content))}"[:_SHOWN]
    except (ValueError, TypeError):
        return f"{status}"


def _message(told: Any) -> str:
    # Servers made with FastAPI say why in `detail`.
    error = (told.get("error") or told.get("detail")) if isinstance(told, dict) else None
    return str(error.get("message") if isinstance(error, dict) else error)[:_SHOWN]
