"""What devices send each other in one step, read from the text of a compiled program."""

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, get_args

Kind = Literal["all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute"]

_BITS: Final = {
    "pred": 8, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "f16": 16, "bf16": 16,
    "s32": 32, "u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64,
}  # fmt: skip
_COMPUTATION = re.compile(r"^(ENTRY )?%([\w.-]+) \(.*?\{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_INSTRUCTION = re.compile(r"^ *(?:ROOT )?%([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)$", re.MULTILINE)
_SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|branch_computations|true_computation|false_computation)=(\{.*?\}|%[\w.-]+)"
)
_NAME = re.compile(r"%([\w.-]+)")
_COMPUTES: Final = ("call", "conditional", "convolution", "custom-call", "dot", "fusion", "while")
"""Operations that may take as long as sending does; the others move or name what is there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Collective:
    """All collectives of one kind."""

    kind: Kind
    count: int
    """In one step."""
    bytes_per_chip: int
    """Of operands or results, whichever are larger, in one step."""
    hidden_bytes_per_chip: int
    """Of them, those that are on their way while something is computed, as the program is scheduled."""


def collectives(program: str) -> tuple[Collective, ...]:
    """Count the collectives of an optimized HLO program, those in loops as often as they run.

    A branch counts as taken. A loop counts by the constant that its condition compares with, and once where
    there is none, as in a walk over the blocks of a kernel, which sends nothing.

    Args:
        program: what `as_text` of a compiled program returns.
    """
    computations = {name: _Computation.read(body) for _, name, body in _COMPUTATION.findall(program)}
    entry = next((name for mark, name, _ in _COMPUTATION.findall(program) if mark), None)
    counts, sizes, hidden = Counter[Kind](), Counter[Kind](), Counter[Kind]()
    # Callees stand before their callers.
    runs = Counter({entry: 1})
    for name, computation in reversed(computations.items()):
        for sent in computation.sends:
            counts[sent.kind] += runs[name]
            sizes[sent.kind] += runs[name] * sent.size_bytes
            hidden[sent.kind] += runs[name] * sent.size_bytes * sent.is_hidden
        for callee, condition, begin in computation.calls:
            times = _trips(computations[condition], begin) if condition else 1
            runs[callee] += runs[name] * times
    return tuple(
        Collective(
            kind=kind,
            count=counts[kind],
            bytes_per_chip=sizes[kind],
            hidden_bytes_per_chip=hidden[kind],
        )
        for kind in get_args(Kind)
        if counts[kind]
    )


class _Sent(NamedTuple):
    kind: Kind
    size_bytes: int
    is_hidden: bool


@dataclass(kw_only=True, slots=True)
class _Computation:
    body: str
    sends: list[_Sent] = field(default_factory=list)
    calls: list[tuple[str, str | None, int]] = field(default_factory=list)
    """The computation, the condition of its loop, and where the counter of the loop begins."""

    @staticmethod
    def read(body: str) -> "_Computation":
        made = _Computation(body=body)
        instructions = _INSTRUCTION.findall(body)
        for at, (name, shape, operation, rest) in enumerate(instructions):
            kind = operation.removesuffix("-start")
            if kind in get_args(Kind):
                # What an all-reduce begins with has the shape of its results alone.
                begun = operation.endswith("-start") and kind != "all-reduce"
                hidden = operation.endswith("-start") and _computes(instructions[at + 1 :], until=name)
                made.sends.append(_Sent(kind, _bytes_of(shape, begun=begun), hidden))
            condition = re.search(r"condition=%([\w.-]+)", rest) if operation == "while" else None
            begin = _constant(body, rest) if condition else 0
            for group in _CALLED.findall(rest):
                made.calls += [(callee, condition and condition[1], begin) for callee in _NAME.findall(group)]
        return made


def _computes(scheduled: Iterable[tuple[str, str, str, str]], *, until: str) -> bool:
    """Return whether something is computed before what waits for the instruction `until`."""

    def waits(operation: str, operands: str) -> bool:
        return operation.endswith("-done") and until in _NAME.findall(operands)

    before_it = itertools.takewhile(lambda one: not waits(*one[2:]), scheduled)
    return any(operation in _COMPUTES for _, _, operation, _ in before_it)


def _bytes_of(shape: str, *, begun: bool) -> int:
    """Return the bytes of a result; one that is begun is a tuple of operands, as many results, and flags."""
    sizes = [
        math.prod(map(int, filter(None, dimensions.split(",")))) * _BITS.get(kind, 32) // 8
        for kind, dimensions in _SHAPE.findall(re.sub(r"\{[^{}]*\}", "", shape))
        if dimensions or not begun
    ]
    half = len(sizes) // 2
    return max(sum(sizes[:half]), sum(sizes[half:])) if begun else sum(sizes)


def _trips(condition: _Computation, begin: int) -> int:
    """Return how often a loop runs whose counter rises by one from `begin`."""
    compared = re.search(r"compare\((.*?)\), direction=LT", condition.body)
    limits = re.findall(r"%([\w.-]+) = s32\[\]\S* constant\((\d+)\)", condition.body)
    named = set(_NAME.findall(compared[1])) if compared else set()
    found = [int(value) for name, value in limits if name in named or not compared]
    return max(found[0] - begin, 0) if len(found) == 1 else 1


def _constant(body: str, operands: str) -> int:
    """Return the first number of the tuple with which a loop begins, or 0."""
    start = _NAME.search(operands)
    made = start and re.search(rf"%{re.escape(start[1])} = .*? tuple\(%([\w.-]+)", body)
    value = made and re.search(rf"%{re.escape(made[1])} = s32\[\]\S* constant\((\d+)\)", body)
    return int(value[1]) if value else 0
