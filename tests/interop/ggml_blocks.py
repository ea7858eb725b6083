"""What the bytes of a quantized block mean, number by number, as `ggml-quants.c` of llama.cpp reads them."""

from collections.abc import Callable

import numpy as np


def half(block: bytes, at: int) -> float:
    return float(np.frombuffer(block[at : at + 2], "<f2")[0])


def signed(byte: int) -> int:
    return byte - 256 if byte > 127 else byte


def q4_0(b: bytes) -> list[float]:
    return [half(b, 0) * (q - 8) for q in [*(x & 15 for x in b[2:]), *(x >> 4 for x in b[2:])]]


def q4_1(b: bytes) -> list[float]:
    return [half(b, 0) * q + half(b, 2) for q in [*(x & 15 for x in b[4:]), *(x >> 4 for x in b[4:])]]


def fives(high: bytes, low: bytes) -> list[int]:
    bits = int.from_bytes(high, "little")
    return [
        *(low[j] & 15 | (bits >> j & 1) << 4 for j in range(16)),
        *(low[j] >> 4 | (bits >> (j + 16) & 1) << 4 for j in range(16)),
    ]


def q5_0(b: bytes) -> list[float]:
    return [half(b, 0) * (q - 16) for q in fives(b[2:6], b[6:])]


def q5_1(b: bytes) -> list[float]:
    return [half(b, 0) * q + half(b, 2) for q in fives(b[4:8], b[8:])]


def q8_0(b: bytes) -> list[float]:
    return [half(b, 0) * signed(x) for x in b[2:]]


def q2_k(b: bytes) -> list[float]:
    scales, qs, d, least = b[:16], b[16:80], half(b, 80), half(b, 82)
    made = []
    for group in range(16):
        half_block, shift, side = group // 8, group % 8 // 2 * 2, group % 2
        for x in qs[32 * half_block + 16 * side :][:16]:
            made.append(d * (scales[group] & 15) * (x >> shift & 3) - least * (scales[group] >> 4))
    return made


def q3_k(b: bytes) -> list[float]:
    mask, qs, packed, d = b[:32], b[32:96], b[96:108], half(b, 108)
    made = []
    for group in range(16):
        low = packed[group] & 15 if group < 8 else packed[group - 8] >> 4
        scale = low | (packed[8 + group % 4] >> (2 * (group // 4)) & 3) << 4
        half_block, shift, side = group // 8, group % 8 // 2 * 2, group % 2
        bit = 4 * half_block + group % 8 // 2
        for i in range(16):
            x = qs[32 * half_block + 16 * side + i] >> shift & 3
            made.append(d * (scale - 32) * (x - (0 if mask[16 * side + i] >> bit & 1 else 4)))
    return made


def scale_and_least(packed: bytes, j: int) -> tuple[int, int]:
    if j < 4:
        return packed[j] & 63, packed[j + 4] & 63
    return packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4


def q4_k(b: bytes) -> list[float]:
    d, least, packed, qs = half(b, 0), half(b, 2), b[4:16], b[16:]
    made = []
    for group in range(8):
        scale, offset = scale_and_least(packed, group)
        for x in qs[group // 2 * 32 :][:32]:
            made.append(d * scale * (x >> 4 * (group % 2) & 15) - least * offset)
    return made


def q5_k(b: bytes) -> list[float]:
    d, least, packed, high, qs = half(b, 0), half(b, 2), b[4:16], b[16:48], b[48:]
    made = []
    for group in range(8):
        scale, offset = scale_and_least(packed, group)
        for x, h in zip(qs[group // 2 * 32 :][:32], high):
            q = (x >> 4 * (group % 2) & 15) + (16 if h >> group & 1 else 0)
            made.append(d * scale * q - least * offset)
    return made


def q6_k(b: bytes) -> list[float]:
    low, high, scales, d = b[:128], b[128:192], b[192:208], half(b, 208)
    made = [0.0] * 256
    for n in range(2):
        for i in range(32):
            for quarter in range(4):
                x = low[64 * n + 32 * (quarter % 2) + i] >> 4 * (quarter // 2) & 15
                q = (x | (high[32 * n + i] >> 2 * quarter & 3) << 4) - 32
                scale = signed(scales[8 * n + i // 16 + 2 * quarter])
                made[128 * n + 32 * quarter + i] = d * scale * q
    return made


BLOCKS: dict[str, tuple[int, tuple[int, ...], Callable[[bytes], list[float]]]] = {
    "Q4_0": (18, (0,), q4_0),
    "Q4_1": (20, (0, 2), q4_1),
    "Q5_0": (22, (0,), q5_0),
    "Q5_1": (24, (0, 2), q5_1),
    "Q8_0": (34, (0,), q8_0),
    "Q2_K": (84, (80, 82), q2_k),
    "Q3_K": (110, (108,), q3_k),
    "Q4_K": (144, (0, 2), q4_k),
    "Q5_K": (176, (0, 2), q5_k),
    "Q6_K": (210, (208,), q6_k),
}
"""Bytes of a block, where its float16 numbers lie, and how it is read."""


def random_blocks(kind: str, *, rows: int, columns: int) -> np.ndarray:
    """Return a matrix of random blocks as bytes, whose float16 numbers are small."""
    size, halves, read = BLOCKS[kind]
    draws = np.random.default_rng(1)
    count = rows * columns // len(read(bytes(size)))
    blocks = draws.integers(0, 256, (count, size)).astype(np.uint8)
    for at in halves:
        small = draws.uniform(-1e-3, 1e-3, count).astype("<f2")
        blocks[:, at : at + 2] = small.view(np.uint8).reshape(count, 2)
    return blocks.reshape(rows, -1)


def numbers(kind: str, stored: np.ndarray) -> np.ndarray:
    """Return the numbers of a matrix of blocks."""
    size, _, read = BLOCKS[kind]
    made = [read(block.tobytes()) for block in stored.reshape(-1, size)]
    return np.array(made).reshape(len(stored), -1)
