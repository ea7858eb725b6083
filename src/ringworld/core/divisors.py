"""Divisors of a number of tokens, heads, rows or devices."""


def largest_divisor(number: int, *, limit: int) -> int:
    """Return the largest divisor up to a limit, or 1: 6 of 12 for 7."""
    return next(n for n in range(max(min(limit, number), 1), 0, -1) if number % n == 0)
