"""Divisors of a number of tokens, heads, rows or devices."""

import math


def divisors(number: int) -> list[int]:
    """Return all divisors of a number, in order: 1 2 3 4 6 12 of 12."""
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return small + [number // n for n in reversed(small) if n * n != number]


def largest_divisor(number: int, *, limit: int) -> int:
    """Return the largest divisor up to a limit, or 1: 6 of 12 for 7."""
    return next(n for n in range(max(min(limit, number), 1), 0, -1) if number % n == 0)
