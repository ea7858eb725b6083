"""What devices send each other in one step, read from the text of a compiled program."""

import math
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Collective:
    """All collectives of one kind."""

    kind: Kind
    count: int
    """In one step."""
    bytes_per_chip: int
    """Of operands or results, whichever are larger, in one step."""


def collectives(program: str) -> tuple[Collective, ...]:
    """Count the collectives of an optimized HLO program, those in loops as often as they run.

    A branch counts as taken. A loop counts by the constant that its condition compares with, and once where
    there is none, as in a walk over the blocks of a kernel, which sends nothing.

    Args:
        program: what `as_text` of a compiled program returns.
    """
    computations = {name: _Computation.read(body) for _, name, body in _COMPUTATION.findall(program)}
    entry = next((name for mark, name, _ in _COMPUTATION.findall(program) if mark), None)
    counts, sizes = Counter[Kind](), Counter[Kind]()
    # Callees stand before their callers.
    runs = Counter({entry: 1})
    for name, computation in reversed(computations.items()):
        for sent, size in computation.sends:
            counts[sent] += runs[name]
            sizes[sent] += runs[name] * size
        for callee, condition, begin in computation.calls:
            times = _trips(computations[condition], begin) if condition else 1
            runs[callee] += runs[name] * times
    return tuple(
        Collective(kind=kind, count=counts[kind], bytes_per_chip=sizes[kind])
        for kind in get_args(Kind)
        if counts[kind]
    )


@dataclass(kw_only=True, slots=True)
class _Computation:
    body: str
    sends: list[tuple[Kind, int]] = field(default_factory=list)
    calls: list[tuple[str, str | None, int]] = field(default_factory=list)
    """The computation, the condition of its loop, and where the counter of the loop begins."""

    @staticmethod
    def read(body: str) -> "_Computation":
        made = _Computation(body=body)
        for _, shape, operation, rest in _INSTRUCTION.findall(body):
            kind = operation.removesuffix("-start")
            if kind in get_args(Kind):
                # What an all-reduce begins with has the shape of its results alone.
                begun = operation.endswith("-start") and kind != "all-reduce"
                made.sends.append((kind, _bytes_of(shape, begun=begun)))
            condition = re.search(r"condition=%([\w.-]+)", rest) if operation == "while" else None
            begin = _constant(body, rest) if condition else 0
            for group in _CALLED.findall(rest):
                made.calls += [(name, condition and condition[1], begin) for name in _NAME.findall(group)]
        return made


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
