"""How a list of prompts is cut into batches of few shapes, so that few programs are compiled."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int32, UInt32

from ringworld.core.errors import InputError
from ringworld.inference.config import EngineConfig

_LEAST_BUCKET_TOKENS = 32


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PromptBatch:
    """Prompts side by side, padded on the right; rows after the last prompt are there for the shape only."""

    indices: tuple[int, ...]
    """Which prompt of the list each row holds."""
    tokens: Int32[np.ndarray, "rows prompt"]
    order: Int32[np.ndarray, "rows prompt"]
    """Index of each token in its prompt; -1 for padding."""
    lengths: Int32[np.ndarray, " rows"]
    idle: Bool[np.ndarray, " rows"]
    """Rows that hold no prompt."""
    checksums: UInt32[np.ndarray, " rows"]
    """What a row's random draws are keyed by, beside the seed."""
    room: int
    """Tokens that may be generated, rounded up."""


def bucket(tokens: int) -> int:
    """Return the least of 32, 48, 64, 96, 128 and so on that is not below `tokens`."""
    power = max(_LEAST_BUCKET_TOKENS, 1 << (tokens - 1).bit_length())
    return power * 3 // 4 if tokens <= power * 3 // 4 and power > _LEAST_BUCKET_TOKENS else power


def batches(
    prompts: Sequence[Int32[np.ndarray, " _"]],
    *,
    checksums: Sequence[int],
    rows_each: int,
    new_tokens: int,
    multiple_of_rows: int,
    limits: EngineConfig,
) -> Iterator[PromptBatch]:
    """Cut prompts into batches, those of like length together.

    Args:
        prompts: token ids.
        checksums: of each prompt.
        rows_each: consecutive prompts that belong together in one batch: 2 where a caption is guided.
        new_tokens: most tokens to be generated for each.
        multiple_of_rows: a batch has a multiple of these rows.
        limits: of one batch.

    Example:
        Prompts of 40, 3, 38 and 5 tokens with at most two rows give the batches (40, 38) and (5, 3).

    Raises:
        InputError: a prompt and what follows it are longer than the context.
    """
    groups = [range(start, start + rows_each) for start in range(0, len(prompts), rows_each)]
    longest = {group: max(len(prompts[i]) for i in group) for group in groups}
    for length in longest.values():
        _check_fits(length, new_tokens=new_tokens, limits=limits)
    waiting = sorted(groups, key=lambda group: (-longest[group], group.start))
    room = bucket(new_tokens)
    while waiting:
        slots = bucket(longest[waiting[0]]) + room
        rows = max(1, min(limits.max_rows, limits.max_cache_tokens // slots))
        # A power of two at most, so that rounding up to one below stays within the limits.
        most = max(1, (1 << (rows.bit_length() - 1)) // rows_each)
        taken, waiting = waiting[:most], waiting[most:]
        indices = tuple(i for group in taken for i in group)
        yield _batch(
            indices,
            prompts=prompts,
            checksums=checksums,
            rows=_rows(len(indices), multiple=math.lcm(multiple_of_rows, rows_each)),
            width=bucket(longest[taken[0]]),
            room=room,
        )


def _batch(
    indices: tuple[int, ...],
    *,
    prompts: Sequence[Int32[np.ndarray, " _"]],
    checksums: Sequence[int],
    rows: int,
    width: int,
    room: int,
) -> PromptBatch:
    tokens = np.zeros((rows, width), np.int32)
    order = np.full((rows, width), -1, np.int32)
    lengths = np.ones(rows, np.int32)
    keys = np.zeros(rows, np.uint32)
    order[:, 0] = 0
    for row, index in enumerate(indices):
        length = lengths[row] = len(prompts[index])
        tokens[row, :length] = prompts[index]
        order[row, :length] = np.arange(length)
        keys[row] = checksums[index]
    return PromptBatch(
        indices=indices,
        tokens=tokens,
        order=order,
        lengths=lengths,
        idle=np.arange(rows) >= len(indices),
        checksums=keys,
        room=room,
    )


def _rows(count: int, *, multiple: int) -> int:
    power = 1 << (count - 1).bit_length()
    return -(-power // multiple) * multiple


def _check_fits(length: int, *, new_tokens: int, limits: EngineConfig) -> None:
    if length + new_tokens > limits.max_context_tokens:
        raise InputError(
            what="prompt",
            got=f"{length} tokens and {new_tokens} to follow",
            expected=f"at most {limits.max_context_tokens} together, the context of this model",
            remedy="Shorten the prompt or the answer, or take a checkpoint of a longer context.",
        )
