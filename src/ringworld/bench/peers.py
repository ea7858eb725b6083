"""Programs that attention is compared with: what they are asked, and what they answer."""

import json
import os
import shlex
import signal
import statistics
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import InitVar, asdict, dataclass, field, replace

from ringworld.attention.config import ComputeType, Sharing, Strategy, advised_sharing
from ringworld.attention.layouts import MOST_TOKENS
from ringworld.attention.work import attention_flops, visible_pairs
from ringworld.core.config import from_json
from ringworld.core.errors import InputError
from ringworld.core.files import parse_json
from ringworld.core.ranges import check_range

_MOST_DEVICES = 512  # to simulate
_MOST_BYTES = 2**42  # of the queries, more than any one machine holds; what is less may fail yet
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
    devices: int = 1
    """How many share a sequence."""
    repeats: int = 5
    """Timed runs, of which the median counts."""
    strategy: InitVar[Strategy | None] = None
    """How ringworld's devices share a sequence; None for what heads and devices advise."""
    sharing: Sharing = field(init=False)
    """The same, with the sizes of the axes of the mesh."""

    def __post_init__(self, strategy: Strategy | None) -> None:
        """Refuse what no machine can hold or share.

        Raises:
            InputError: a number is out of range, the strategy does not suit heads and devices, or queries or
                keys would exceed 4 TiB, where their sizes overflow in places that could not report it.
        """
        check_range(self, "batch", "heads", "kv_heads", "head", "repeats", least=1)
        check_range(self, "seq", least=1, most=MOST_TOKENS)
        check_range(self, "devices", least=1, most=_MOST_DEVICES)
        size = 4 * self.batch * self.seq * max(self.heads, self.kv_heads) * self.head
        if size > _MOST_BYTES:
            raise too_large(f"queries or keys of {size:,} bytes fit into no memory")
        shared = advised_sharing(kv_heads=self.kv_heads, members=self.devices, strategy=strategy)
        object.__setattr__(self, "sharing", shared)

    @property
    def flops(self) -> int:
        """What is visible takes so many floating-point operations."""
        pairs = self.batch * visible_pairs(self.lengths)
        return attention_flops(pairs, heads=self.heads, head=self.head, backward=self.backward)


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """What one program took. A peer prints it as JSON, as its last line."""

    name: str
    """Of the program, with its options."""
    seconds: float
    """Median of a run."""
    peak_bytes: int
    """Most memory of one device, arguments and results included."""
    memory: str
    """How that was found; only what was found alike can be compared."""
    versions: dict[str, str]
    """Of what took part."""

    def __post_init__(self) -> None:
        """Refuse what no program could take, and names that are no line of text."""
        for text in (self.name, self.memory):
            if not text.isprintable() or not 0 < len(text) <= _WIDEST:
                raise InputError(f"{text!r:.{_WIDEST}} is no line of text", field="name", value=text)
        check_range(self, "seconds", least=1e-9, most=1e9)
        check_range(self, "peak_bytes", least=1, most=2**60)


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """A peer that could not be measured."""

    name: str
    """Its command."""
    failed: str
    """Why."""


def too_large(problem: str) -> InputError:
    """Return the error for queries, keys, values and gradients that memory does not hold."""
    remedy = "use a shorter sequence, fewer heads, or more devices where each has memory of its own"
    return InputError(problem, field="seq", remedy=remedy)


def cut_command(command: str) -> list[str]:
    """Cut a peer's command into words.

    Raises:
        InputError: it has none, or a quotation mark stands alone.
    """
    try:
        words, reason = shlex.split(command), "no word"
    except ValueError as error:
        words, reason = [], str(error)
    if not words:
        raise InputError(f"{command!r} is not a command: {reason}", field="peers", value=command)
    return words


def ask(command: str, words: Sequence[str], problem: Problem, *, timeout_seconds: float) -> Timing | Failed:
    """Run a peer's command; it may fail, hang, or print something else than `Timing`."""
    try:
        said = _run([*words, json.dumps(asdict(problem))], timeout_seconds=timeout_seconds)
        return from_json(Timing, parse_json(said), where="the last line")
    except subprocess.TimeoutExpired:
        return Failed(name=command, failed=f"no answer within {timeout_seconds:g} seconds")
    except (OSError, ValueError) as error:
        return Failed(name=command, failed=" ".join(str(error).split()))


def _run(words: Sequence[str], *, timeout_seconds: float) -> str:
    """Return the last line that a program prints, and leave neither it nor what it started behind.

    Raises:
        OSError: it cannot be started.
        TimeoutExpired: it does not end.
        ValueError: it fails.
    """
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            output, errors = process.communicate(timeout=timeout_seconds)
        except BaseException:  # an interruption does not reach another session
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    last = ((errors if process.returncode else output).strip().splitlines() or ["nothing"])[-1]
    if process.returncode:
        raise ValueError(f"exit status {process.returncode}: {last}")
    return last


def check_one_answered(peers: Sequence[Timing | Failed]) -> None:
    """Refuse a comparison of which nothing is left.

    Raises:
        InputError: there are peers, and none could be measured.
    """
    failed = [one for one in peers if isinstance(one, Failed)]
    if failed and len(failed) == len(peers):
        reasons = "; ".join(f"{one.name!r} failed: {one.failed}" for one in failed)
        raise InputError(
            f"no peer could be measured ({reasons})",
            field="peers",
            value=tuple(one.name for one in failed),
            remedy="try the command alone: its last line must be JSON such as benchmarks/peers print",
        )


def outcome_of(rounds: Sequence[Timing | Failed]) -> Timing | Failed:
    """Return what all rounds of a peer come to: a failure, if any of them failed."""
    measured = [one for one in rounds if isinstance(one, Timing)]
    failed = [one for one in rounds if isinstance(one, Failed)]
    return failed[0] if failed else median_of(measured)


def median_of(rounds: Sequence[Timing]) -> Timing:
    """Return the median time of all rounds, and the most memory."""
    return replace(
        rounds[0],
        seconds=statistics.median(one.seconds for one in rounds),
        peak_bytes=max(one.peak_bytes for one in rounds),
    )
