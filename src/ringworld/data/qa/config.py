"""Configuration of the questions that another model writes."""

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from ringworld.core.errors import InputError
from ringworld.core.ranges import check_number, check_range
from ringworld.data.config import PrepareConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class QaConfig:
    """Which model writes questions, about how much text each, and what they are joined to."""

    model: str
    """What the endpoint calls the model that writes them."""
    address: str = "http://127.0.0.1:8000/v1"
    """Where the endpoint is, an API in OpenAI's form, up to `/v1`."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable with the key that requests show; where it is not set, they show none."""
    passage_tokens: int = 1000
    """About so many tokens of text are shown for each question."""
    context_tokens: tuple[int, ...] = (32_768,)
    """Lengths up to which passages that follow each other are joined, their questions included."""
    attempts: int = 2
    """Replies that are asked for until a passage has a usable question, at most."""
    temperature: float = 0.7
    """Of the replies."""
    max_reply_tokens: int = 256
    """Longest reply."""
    reply_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the endpoint calls that; newer models of OpenAI want the latter."""
    requests_at_once: int = 4
    """Requests that wait for a reply at the same time."""
    requests_per_minute: float = 0.0
    """Requests that begin within a minute, at most; 0 for as many as are answered."""
    retries: int = 6
    """Times that a request is repeated where the endpoint is busy, fails or cannot be reached."""
    timeout_seconds: float = 120.0
    """How long a reply may take."""
    input_price: float = 0.0
    """Of a million tokens of prompts, for the estimate of the cost."""
    output_price: float = 0.0
    """Of a million tokens of replies."""
    held_out_fraction: float = 0.1
    """Part of the texts that is held out; as the run will prepare them, like the next two."""
    document_tokens: int = 8192
    """Characters that the held-out end of a text must have."""
    seed: int = 0
    """Decides what is held out, and the order of the questions about a context."""
    dry_run: bool = False
    """Print what it would cost, and ask nothing."""

    def __post_init__(self) -> None:
        """Refuse what could ask for nothing."""
        if not self.model.strip():
            raise InputError("model is empty", field="model", remedy="say what the endpoint calls it")
        if not _is_address(self.address):
            problem = f"address is {self.address!r}, but must be such as http://127.0.0.1:8000/v1"
            raise InputError(
                problem, field="address", value=self.address, remedy="a key stands in the environment"
            )
        check_range(self, "passage_tokens", least=32)
        check_range(self, "attempts", "max_reply_tokens", "requests_at_once", least=1)
        check_range(self, "temperature", "requests_per_minute", "retries", least=0)
        check_range(self, "input_price", "output_price", least=0)
        check_range(self, "timeout_seconds", above=0)
        if not self.context_tokens:
            problem = "context_tokens names no length"
            raise InputError(problem, field="context_tokens", remedy="name one, such as 32768")
        for length in self.context_tokens:
            remedy = "lengthen the context or shorten the passages"
            check_number("context_tokens", length, least=2 * self.passage_tokens, remedy=remedy)
        self.reading()

    def reading(self) -> PrepareConfig:
        """Return how the texts are read and divided into splits."""
        return PrepareConfig(
            held_out_fraction=self.held_out_fraction, document_tokens=self.document_tokens, seed=self.seed
        )


def _is_address(address: str) -> bool:
    """Return whether HTTP can be spoken to an address, which holds no secret."""
    try:
        parts = urlsplit(address)
        return (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and parts.port != 0
            and not parts.username
        )
    except ValueError:
        return False
