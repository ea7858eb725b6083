"""Programs that attention is compared with: what they are asked, and what they answer."""

import json
import shlex
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from ringworld.attention.config import ComputeType, Sharing
from ringworld.attention.work import attention_flops, visible_pairs
from ringworld.core.errors import InputError
from ringworld.core.files import parse_json

_PEER = "a program that ends with a line of JSON such as those of benchmarks/peers"
_WIDEST = 100  # characters of a name


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """What is attended to. A peer gets it as JSON, as the last word of its command."""

    seq: int
    """Tokens of a sequence."""
    batch: int
    """Sequences."""
    heads: int
    """Heads of queries."""
    kv_heads: int
    """Heads of keys and values."""
    head: int
    """Size of a head."""
    dtype: ComputeType
    """Of queries, keys and values."""
    backward: bool
    """Whether gradients are taken too."""
    lengths: list[int]
    """Tokens of each document of a sequence."""
    devices: int
    """How many share a sequence."""
    sharing: Sharing
    """How ringworld's devices share it."""
    repeats: int
    """Timed runs, of which the median counts."""

    @property
    def flops(self) -> int:
        """What is visible takes so many floating-point operations."""
        pairs = self.batch * visible_pairs(self.lengths)
        return attention_flops(pairs, heads=self.heads, head=self.head, backward=self.backward)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What one program took. A peer prints it as JSON, as its last line."""

    name: str
    """Of the program, with what it was told to do."""
    seconds: float
    """Median of a run."""
    peak_bytes: int
    """Most memory of one device, arguments and results included."""
    memory: str
    """How that was found; only what was found alike can be compared."""
    versions: dict[str, str]
    """Of what took part."""

    def __post_init__(self) -> None:
        """Refuse what cannot be measured or shown.

        Raises:
            ValueError: the name is no line of text, or the time or the memory is no number, or none that a
                program could take.
        """
        for name in ("name", "memory"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= _WIDEST:
                raise ValueError(f"{name} {value!r:.{_WIDEST}}")
        for name, kinds, least, most in (
            ("seconds", (int, float), 1e-9, 1e9),
            ("peak_bytes", (int,), 1, 2**60),
        ):
            value = getattr(self, name)
            if type(value) not in kinds or not least <= value <= most:
                raise ValueError(f"{name} {value!r:.{_WIDEST}}")
        if not isinstance(self.versions, dict):
            raise ValueError(f"versions {self.versions!r:.{_WIDEST}}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """A peer that could not be measured."""

    name: str
    """Its command."""
    failed: str
    """Why."""


def cut_command(command: str) -> list[str]:
    """Cut a peer's command into words.

    Raises:
        InputError: it has none, or a quotation mark stands alone.
    """
    try:
        words, problem = shlex.split(command), "no word"
    except ValueError as error:
        words, problem = [], str(error)
    if not words:
        raise InputError(
            what=f"--peers {command!r}",
            got=problem,
            expected=_PEER,
            remedy="Name a program, or leave it out.",
        )
    return words


def ask(command: str, words: Sequence[str], problem: Problem) -> Measured | Failed:
    """Run a peer's command; it may fail, or print something else than `Measured`."""
    try:
        ended = subprocess.run(
            [*words, json.dumps(asdict(problem))],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        said = ended.stderr if ended.returncode else ended.stdout
        last = said.strip().splitlines()[-1:] or ["nothing"]
        if ended.returncode:
            raise ValueError(f"exit status {ended.returncode}: {last[0]}")
        answer = parse_json(last[0])
        if not isinstance(answer, dict):
            raise ValueError(f"{last[0]:.{_WIDEST}}")
        return Measured(**answer)
    except (OSError, ValueError, TypeError) as error:
        return Failed(name=command, failed=" ".join(str(error).split()))


def check_one_answered(peers: Sequence[Measured | Failed]) -> None:
    """Refuse a comparison of which nothing is left."""
    failed = [one for one in peers if isinstance(one, Failed)]
    if failed and len(failed) == len(peers):
        raise InputError(
            what=f"--peers {' '.join(repr(one.name) for one in failed)}",
            got="; ".join(one.failed for one in failed),
            expected=_PEER,
            remedy="Try the command by itself.",
        )


def outcome_of(rounds: Sequence[Measured | Failed]) -> Measured | Failed:
    """Return what all rounds of a peer come to: a failure, if any of them failed."""
    measured = [one for one in rounds if isinstance(one, Measured)]
    failed = [one for one in rounds if isinstance(one, Failed)]
    return failed[0] if failed else median_of(measured)


def median_of(rounds: Sequence[Measured]) -> Measured:
    """Return the median time of all rounds, and the most memory."""
    return replace(
        rounds[0],
        seconds=statistics.median(one.seconds for one in rounds),
        peak_bytes=max(one.peak_bytes for one in rounds),
    )
