"""Divisors of a number of heads, rows or devices."""


def largest_divisor(number: int, *, limit: int) -> int:
    """Return the largest divisor up to a limit, or 1: 6 of 12 for 7."""
    return max(n for n in range(1, number + 1) if number % n == 0 and n <= max(limit, 1))
