"""How a list of prompts is cut into batches of few shapes, so that few programs are compiled."""

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int32, UInt32

from ringworld.core.errors import InputError
from ringworld.inference.config import GenerationLimits

LEAST_BUCKET_TOKENS = 32


class TooLong(InputError):
    """A prompt does not fit into the context with what follows it."""


def chunk_size(tokens: int, *, most: int, least: int = LEAST_BUCKET_TOKENS) -> int:
    """Return the size of the next chunk in which so many tokens are read, which may be more than there are.

    It is the most, or half of that, and so on. It is padded only where at most a quarter of it is padding, or
    where it is the least.

    Example:
        With at most 1024, 2700 tokens are read in chunks of 1024, 1024, 512, 128 and 32.
    """
    size = most
    while size * 3 // 4 >= tokens and size // 2 >= least:
        size //= 2
    return size


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PromptBatch:
    """Prompts side by side, padded on the right; what follows the last one is there for the shape only."""

    indices: tuple[int, ...]
    """Which prompt of the list each is."""
    tokens: Int32[np.ndarray, "batch prompt"]
    order: Int32[np.ndarray, "batch prompt"]
    """Index of each token in its prompt; -1 for padding."""
    lengths: Int32[np.ndarray, " batch"]
    idle: Bool[np.ndarray, " batch"]
    """True after the last prompt."""
    checksums: UInt32[np.ndarray, " batch"]
    """Keys of the random draws of each prompt, beside the seed."""
    room: int
    """Tokens that may be generated, rounded up."""


def bucket(count: int, *, least: int = LEAST_BUCKET_TOKENS) -> int:
    """Return the least of `least`, a power of two, and 3/2, 2, 3 and so on of it that is not below `count`.

    Example:
        Of 32: 32, 48, 64, 96, 128. Of 1: 1, 2, 3, 4, 6, 8.
    """
    power = max(least, 1 << (count - 1).bit_length())
    return power * 3 // 4 if count <= power * 3 // 4 and power > least else power


def plan_batches(
    prompts: Sequence[Int32[np.ndarray, " _"]],
    *,
    group: int,
    new_tokens: int,
    multiple: int,
    limits: GenerationLimits,
    samples: int = 1,
) -> Iterator[PromptBatch]:
    """Cut prompts into batches, those of like length together.

    Args:
        prompts: token ids.
        group: consecutive prompts that belong together in one batch: 2 where a caption is guided.
        new_tokens: most tokens to be generated for each.
        multiple: a batch holds a multiple of these sequences.
        limits: of one batch.
        samples: so many consecutive prompts are the same, and draw differently.

    Example:
        Prompts of 40, 3, 38 and 5 tokens with at most two sequences give the batches (40, 38) and (5, 3).

    Raises:
        InputError: a prompt is empty, or longer than the context with what follows it.
    """
    groups = [range(start, start + group) for start in range(0, len(prompts), group)]
    for prompt in prompts:
        check_fits(len(prompt), new_tokens=new_tokens, context_tokens=limits.max_context_tokens)
    longest = {indices: max(len(prompts[i]) for i in indices) for indices in groups}
    waiting = sorted(groups, key=lambda indices: (-longest[indices], indices.start))
    room, together = bucket(new_tokens), math.lcm(multiple, group)
    while waiting:
        slots = bucket(longest[waiting[0]]) + room
        sequences = max(1, min(limits.max_sequences, limits.max_cache_tokens // slots))
        # A power of two at most, so that rounding up below stays within the limits.
        most = max(1, (1 << (sequences.bit_length() - 1)) // group)
        taken, waiting = waiting[:most], waiting[most:]
        indices = tuple(i for indices in taken for i in indices)
        yield _batch(
            indices,
            prompts=prompts,
            sequences=math.ceil(bucket(len(indices), least=1) / together) * together,
            width=bucket(longest[taken[0]]),
            room=room,
            samples=samples,
        )


def checksum(prompt: Int32[np.ndarray, " _"], *, sample: int) -> int:
    """Return what the draws of a sample of a prompt depend on, beside the seed."""
    of_prompt = zlib.crc32(prompt.astype("<i4").tobytes())
    return zlib.crc32(sample.to_bytes(4, "little"), of_prompt) if sample else of_prompt


def not_finite() -> InputError:
    """Return the error for a model whose scores are NaN or infinite."""
    return InputError(
        "the scores of the model are not finite: its weights hold NaN or infinity, or are too large for the "
        "type that it computes in",
        field="weights",
        remedy="use the weights of a run that did not diverge, or copy them again",
    )


def _batch(
    indices: tuple[int, ...],
    *,
    prompts: Sequence[Int32[np.ndarray, " _"]],
    sequences: int,
    width: int,
    room: int,
    samples: int,
) -> PromptBatch:
    tokens = np.zeros((sequences, width), np.int32)
    order = np.full((sequences, width), -1, np.int32)
    lengths = np.ones(sequences, np.int32)
    keys = np.zeros(sequences, np.uint32)
    order[:, 0] = 0
    for i, index in enumerate(indices):
        length = lengths[i] = len(prompts[index])
        tokens[i, :length] = prompts[index]
        order[i, :length] = np.arange(length)
        keys[i] = checksum(prompts[index], sample=index % samples)
    return PromptBatch(
        indices=indices,
        tokens=tokens,
        order=order,
        lengths=lengths,
        idle=np.arange(sequences) >= len(indices),
        checksums=keys,
        room=room,
    )


def check_fits(length: int, *, new_tokens: int, context_tokens: int) -> None:
    """Refuse a prompt of so many tokens that has nothing in it, or does not fit with what follows it.

    Raises:
        InputError: it has nothing in it.
        TooLong: it does not fit.
    """
    if not length:
        raise InputError("a prompt has no tokens", field="prompt", value=0, remedy="begin with <s>")
    if length + new_tokens > context_tokens:
        raise TooLong(
            f"a prompt of {length} tokens and {new_tokens} new ones do not fit into the context of this "
            f"model, {context_tokens} tokens",
            field="prompt",
            value=length,
            remedy="shorten the prompt or what is to follow, or use a model of a longer context",
        )
