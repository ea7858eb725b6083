"""Load on a server: what is asked of it, and when."""

from dataclasses import dataclass

import numpy as np

from ringworld.core.ranges import check_range

_WORDS = (
    "a red circle moves to the right while the small blue square stays near the top and turns slowly around "
    "its own center until both are out of sight behind the green hill where three people wait for the train"
).split()


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """Requests of one run; the same seed asks the same at the same moments."""

    requests: int = 64
    """How many are asked."""
    rate: float = 0.0
    """Requests a second, at random moments (a Poisson process), whoever waits; 0 asks as answers come."""
    concurrency: int = 8
    """Where the rate is 0, so many are asked at any moment, the next one when one is answered."""
    prompt_tokens: int = 256
    """Median length of prompts."""
    new_tokens: int = 64
    """Median length of answers, at most; a model may end its answer sooner."""
    sigma: float = 0.5
    """Spread of both lengths: the standard deviation of their logarithm; 0 makes them equal."""
    shared_tokens: int = 0
    """With so many tokens prompts begin alike, besides their own."""
    prefixes: int = 1
    """How many such beginnings there are, each as likely."""
    seed: int = 0
    """Of lengths, words and moments."""
    timeout_seconds: float = 600.0
    """A request that takes longer has failed."""
    model: str = ""
    """What requests call the model; by default the first that the server names."""

    def __post_init__(self) -> None:
        """Refuse what asks nothing."""
        sizes = ("requests", "concurrency", "prompt_tokens", "new_tokens", "prefixes")
        check_range(self, *sizes, least=1)
        check_range(self, "rate", "sigma", "shared_tokens", "seed", least=0)
        check_range(self, "timeout_seconds", above=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """One request."""

    at: float
    """Seconds after the first; 0 where requests are asked as answers come."""
    prompt: str
    new_tokens: int


def asks_of(load: Load, *, tokens_per_word: float) -> list[Ask]:
    """Return the requests of a run, in order.

    Args:
        load: what is asked.
        tokens_per_word: of the server's tokenizer, as it counts.
    """
    draws = np.random.default_rng(load.seed)
    moments = (
        np.cumsum(draws.exponential(1 / load.rate, load.requests)) if load.rate else np.zeros(load.requests)
    )

    def words(tokens: float) -> list[str]:
        return draws.choice(_WORDS, max(1, round(tokens / tokens_per_word))).tolist()

    beginnings = [
        words(float(load.shared_tokens)) if load.shared_tokens else [] for _ in range(load.prefixes)
    ]
    asked = []
    for index, moment in enumerate(moments - moments[0]):
        prompt_tokens, new_tokens = (
            size * draws.lognormal(0, load.sigma) for size in (load.prompt_tokens, load.new_tokens)
        )
        beginning = beginnings[draws.integers(load.prefixes)]
        # Its number makes the rest of a prompt one that nobody asked before.
        own = [str(index), *words(prompt_tokens)]
        asked.append(
            Ask(at=float(moment), prompt=" ".join([*beginning, *own]), new_tokens=max(1, round(new_tokens)))
        )
    return asked
