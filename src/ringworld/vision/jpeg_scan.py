"""Whether an encoder wrote the zeros of a JPEG: a decoder takes any bits for codes (ITU-T T.81, F.2.2)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice, repeat

_ZEROS = re.compile(rb"\0{12}")
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
"""But for those that restart a scan; a byte of 255 within it is followed by a zero."""
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_TABLES, _QUANTA, _RESTARTS, _SCAN = 0xC4, 0xDB, 0xDD, 0xDA
_BASELINE, _OTHER_FRAMES = (0xC0, 0xC1), frozenset(range(0xC2, 0xD0)) - {_TABLES, 0xC8, 0xCC}
_NO_CONTENT = (0x01, 0xD8, 0xD9)
_LONGEST_BYTES = 2**22
"""Of a scan that is looked through: plain pictures are short."""
_END = 0
"""The symbol that ends a block."""
_Table = dict[str, int]
"""Symbols by the bits of their codes."""


@dataclass(kw_only=True, slots=True)
class _Frame:
    """A picture, or a field of one."""

    width: int
    height: int
    samplings: dict[int, tuple[int, int]]
    """Of each component, how many blocks of a unit stand beside and above each other."""

    def units(self, components: Sequence[int]) -> tuple[int, list[int]]:
        """Return how many units a scan of components has, and the component of each block of one."""
        most = [max(size) for size in zip(*self.samplings.values())]
        if len(components) == 1:
            own = self.samplings[components[0]]
            lengths = [-(-side * size // of) for side, size, of in zip((self.width, self.height), own, most)]
            return -(-lengths[0] // 8) * -(-lengths[1] // 8), list(components)
        units = -(-self.width // (8 * most[0])) * -(-self.height // (8 * most[1]))
        blocks = [
            each for each in components for _ in range(self.samplings[each][0] * self.samplings[each][1])
        ]
        return units, blocks


def has_stray_zeros(packet: bytes) -> bool:
    """Return whether a packet of Motion JPEG holds 12 zeros in a row that no encoder writes.

    | code of zeros alone, in the tables of a scan | 12 bytes of it are |
    |---|---|
    | ends a block in all of them | many plain blocks: written if all blocks end where the scan does |
    | a coefficient in one, as in the tables of annex K.3, which need not be there | damage |

    Of other processes than sequential Huffman coding nothing is said.
    """
    if not _ZEROS.search(packet):
        return False
    frame, tables, restart, at, has_scan = None, dict[int, _Table](), 0, 0, False
    while found := _MARKER.search(packet, at):
        kind, at = found[1][0], found.end()
        if kind in _NO_CONTENT:
            continue
        end = at + int.from_bytes(packet[at : at + 2])
        content, at = packet[at + 2 : end], max(end, at)
        if kind in _OTHER_FRAMES:
            return False
        try:
            if kind in _BASELINE:
                frame = _frame(content)
            elif kind == _TABLES:
                tables |= _tables(content)
            elif kind == _QUANTA and _ZEROS.search(content):
                return True
            elif kind == _RESTARTS:
                restart = int.from_bytes(content[:2])
            elif kind == _SCAN and frame is not None:
                following = _MARKER.search(packet, end)
                at = following.start() if following else len(packet)
                has_scan = True
                if not _ZEROS.search(packet, found.start(), at):
                    continue
                chosen = {content[1 + 2 * i]: content[2 + 2 * i] for i in range(content[0])}
                units, blocks = frame.units(list(chosen))
                codes = [(tables[chosen[each] >> 4], tables[16 | chosen[each] & 15]) for each in blocks]
                ends_blocks = all(next(iter(others.values())) == _END for _, others in codes)
                parts = _RESTART.split(packet[end:at])
                long = at - end > _LONGEST_BYTES
                if long or not ends_blocks or not _is_filled(parts, units, codes, restart=restart):
                    return True
        except (ArithmeticError, IndexError, KeyError, StopIteration, ValueError):
            return True
    return not has_scan


def _frame(content: bytes) -> _Frame:
    samplings = {content[6 + 3 * i]: divmod(content[7 + 3 * i], 16) for i in range(content[5])}
    return _Frame(
        width=int.from_bytes(content[3:5]), height=int.from_bytes(content[1:3]), samplings=samplings
    )


def _tables(content: bytes) -> dict[int, _Table]:
    tables, at = dict[int, _Table](), 0
    while at < len(content):
        counts = content[at + 1 : at + 17]
        symbols = content[at + 17 : at + 17 + sum(counts)]
        if len(set(symbols)) < sum(counts):
            raise ValueError("a symbol twice")
        table, code, written = _Table(), 0, iter(symbols)
        for length, count in enumerate(counts, start=1):
            for symbol in islice(written, count):
                table[f"{code:0{length}b}"] = symbol
                code += 1
            code <<= 1
        tables[content[at]] = table
        at += 17 + sum(counts)
    return tables


def _is_filled(
    parts: Sequence[bytes], units: int, codes: Sequence[tuple[_Table, _Table]], *, restart: int
) -> bool:
    """Return whether each part between restarts ends with its last block, but for less than a byte."""
    each = restart or units
    if len(parts) != -(-units // each):
        return False
    return all(
        _bits_left(part.replace(b"\xff\0", b"\xff"), min(each, units - i * each), codes) in range(8)
        for i, part in enumerate(parts)
    )


def _bits_left(content: bytes, units: int, codes: Sequence[tuple[_Table, _Table]]) -> int:
    """Return how many bits follow the last block (figures F.12, F.13); less than none where it does not fit.

    Raises:
        ValueError: bits are no code.
    """
    bits, at = bin(int.from_bytes(b"\1" + content))[3:], 0
    for first, others in chain.from_iterable(repeat(codes, units)):
        length, size = _code(first, bits, at)
        at, index = at + length + size, 1
        while index < 64:
            length, symbol = _code(others, bits, at)
            run, size = divmod(symbol, 16)
            at, index = at + length + size, index + run + 1
            if symbol == _END:
                break
        if index > 64:
            return -1
    return len(bits) - at


def _code(table: _Table, bits: str, at: int) -> tuple[int, int]:
    """Return the length and the symbol of the code that stands somewhere."""
    for length in range(1, 17):
        symbol = table.get(bits[at : at + length])
        if symbol is not None:
            return length, symbol
    raise ValueError("no code")
