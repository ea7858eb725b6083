"""A pickle of nested dictionaries of arrays, read without unpickling it.

A pickle is a program, and Python's unpickler runs it. This reader knows the few instructions that arrays and
dictionaries are made of. The functions that such a pickle calls are never called, as each stands for what it
would return, and numbers stay in the file until an array is read. Whatever else it would import, call or
build is an error before that happens.
"""

import enum
import math
import mmap
import pickletools
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short
from typing import IO, Any, Literal, cast

from ringworld.core.files import reading
from ringworld.interop.mapped_array import FLOAT_TYPES, MappedArray, StoredPiece, float_type, map_file

_MOST_INSTRUCTIONS = 2**16
_MOST_ARRAYS = 2**10
"""LWM's VQGAN has 277."""
_MOST_LEVELS = 16
_LONGEST_KEY = 2**8


class _Named(enum.Enum):
    """What a pickle of arrays imports."""

    ARRAY = enum.auto()
    EMPTY_ARRAY = enum.auto()
    ARRAY_OF_BYTES = enum.auto()
    ARRAY_OF_JAX = enum.auto()
    TYPE = enum.auto()
    BFLOAT16 = enum.auto()
    ORDERED_DICT = enum.auto()
    FROZEN_DICT = enum.auto()


_KNOWN = {
    "numpy ndarray": _Named.ARRAY,
    "numpy dtype": _Named.TYPE,
    "numpy.core.multiarray _reconstruct": _Named.EMPTY_ARRAY,
    "numpy._core.multiarray _reconstruct": _Named.EMPTY_ARRAY,
    "numpy.core.numeric _frombuffer": _Named.ARRAY_OF_BYTES,
    "numpy._core.numeric _frombuffer": _Named.ARRAY_OF_BYTES,
    "jax._src.array _reconstruct_array": _Named.ARRAY_OF_JAX,
    "ml_dtypes bfloat16": _Named.BFLOAT16,
    "collections OrderedDict": _Named.ORDERED_DICT,
    "flax.core.frozen_dict FrozenDict": _Named.FROZEN_DICT,
}
_TYPE_CODES = {"f4": "float32", "f2": "float16", _Named.BFLOAT16: "bfloat16"}
_LITTLE_ENDIAN = ("<", "=", "|")
_VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LENGTH_BYTES = {"SHORT_BINBYTES": 1, "BINBYTES": 4, "BINBYTES8": 8, "BYTEARRAY8": 8}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def read_array_pickle(path: Path) -> dict[str, MappedArray]:
    """Return the arrays by their keys, joined by slashes: `encoder/Conv_0/kernel`.

    Read are arrays of any version of NumPy, and of jax where they wrap one, in a `dict`, an `OrderedDict` or
    flax's `FrozenDict`; by the protocols 3 to 5, which Python 3 writes by itself.

    Raises:
        InputError: the file is missing, damaged, or holds or does anything else.
    """
    buffer = map_file(path, expected="a pickle of arrays")
    expected = "a pickle of dictionaries of arrays of floats, and of nothing else"
    remedy = "save it so with one you trust: ringworld runs nothing that a pickle contains"
    with reading(path, expected=expected, damage=ValueError, remedy=remedy):
        arrays = _flattened(_Machine(buffer).run())
        # Many arrays of the same bytes would take more memory than the file has.
        if sum(piece.count for array in arrays.values() for piece in array.pieces) > len(buffer):
            raise ValueError("its arrays have more numbers than the file has bytes")
        return arrays


@dataclass(slots=True, eq=False)
class _Array:
    """An array, which its pickle makes empty and describes later."""

    described: MappedArray | None = None


@dataclass(frozen=True, slots=True)
class _Bytes:
    """Bytes of the file."""

    offset: int
    count: int


@dataclass(frozen=True, slots=True)
class _Type:
    name: str


class _Machine:
    """Carries out the instructions of a pickle on descriptions."""

    def __init__(self, buffer: mmap.mmap) -> None:
        self._buffer = buffer
        self._stacks: list[list[Any]] = [[]]
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Return what the pickle describes.

        Raises:
            ValueError: it is damaged, or has an instruction that does something else.
        """
        # It asks for no more than `read`, `readline` and `tell`, which a map has.
        program = cast(IO[bytes], self._buffer)
        for number, (instruction, argument, offset) in enumerate(pickletools.genops(program)):
            assert offset is not None
            if number == _MOST_INSTRUCTIONS:
                raise ValueError(f"it has more than {_MOST_INSTRUCTIONS} instructions")
            try:
                self._step(instruction.name, argument, offset)
            except ValueError as error:
                raise ValueError(f"{instruction.name} at byte {offset}: {error}") from None
        return self._pop()

    def _step(self, name: str, argument: Any, offset: int) -> None:
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                self._stacks.append([])
            case "NONE" | "NEWTRUE" | "NEWFALSE" | "EMPTY_TUPLE":
                self._push(_VALUES[name])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "SHORT_BINUNICODE" | "BINUNICODE":
                self._push(argument)
            case "SHORT_BINBYTES" | "BINBYTES" | "BINBYTES8" | "BYTEARRAY8":
                self._push(_Bytes(offset + 1 + _LENGTH_BYTES[name], len(argument)))
            case "EMPTY_DICT":
                self._push({})
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self._push(tuple(reversed([self._pop() for _ in range(_TUPLES[name])])))
            case "TUPLE":
                self._push(tuple(self._pop_marked()))
            case "SETITEM":
                value, key = self._pop(), self._pop()
                self._set_items([key, value])
            case "SETITEMS":
                self._set_items(self._pop_marked())
            case "MEMOIZE" | "BINPUT" | "LONG_BINPUT":
                self._memo[len(self._memo) if argument is None else argument] = self._top()
            case "BINGET" | "LONG_BINGET":
                if argument not in self._memo:
                    raise ValueError(f"nothing was kept as {argument}")
                self._push(self._memo[argument])
            case "GLOBAL":
                self._push(_named(argument))
            case "STACK_GLOBAL":
                what, module = self._pop(), self._pop()
                self._push(
                    _named(" ".join(part if isinstance(part, str) else "?" for part in (module, what)))
                )
            case "REDUCE":
                arguments, function = self._pop(), self._pop()
                self._push(self._made(function, arguments))
            case "BUILD":
                state = self._pop()
                self._describe(self._top(), state)
            case _:
                raise ValueError("no dictionary of arrays needs this instruction")

    def _push(self, value: Any) -> None:
        self._stacks[-1].append(value)

    def _top(self) -> Any:
        if not self._stacks[-1]:
            raise ValueError("there is nothing that it could be applied to")
        return self._stacks[-1][-1]

    def _pop(self) -> Any:
        top = self._top()
        del self._stacks[-1][-1]
        return top

    def _pop_marked(self) -> list[Any]:
        if len(self._stacks) == 1:
            raise ValueError("no beginning is marked")
        return self._stacks.pop()

    def _set_items(self, items: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError("these are no items of a dictionary")
        for key, value in zip(items[::2], items[1::2]):
            # Also because some keys take forever to hash.
            if not isinstance(key, str) or len(key) > _LONGEST_KEY:
                raise ValueError(f"a key is no string of at most {_LONGEST_KEY} characters")
            target[key] = value

    def _made(self, function: Any, arguments: Any) -> Any:
        """Return a description of what a call would return."""
        match function, arguments:
            case _Named.EMPTY_ARRAY, (_Named.ARRAY, tuple(), _Bytes()):
                return _Array()
            case _Named.ARRAY_OF_BYTES, (
                _Bytes() as numbers,
                _Type() as kind,
                tuple() as shape,
                "C" | "F" as order,
            ):
                return _Array(self._array(numbers, kind, shape, order=order))
            case _Named.ARRAY_OF_JAX, (function, arguments, state, dict()) if function is _Named.EMPTY_ARRAY:
                array = self._made(function, arguments)
                self._describe(array, state)
                return array
            case _Named.TYPE, (str() | _Named.BFLOAT16 as code, bool(), bool()) if code in _TYPE_CODES:
                return _Type(_TYPE_CODES[code])
            case _Named.TYPE, (str() as code, *_):
                raise ValueError(f"its numbers are {short(code)}, none of {', '.join(FLOAT_TYPES)}")
            case _Named.ORDERED_DICT, ():
                return {}
            case _Named.FROZEN_DICT, (dict() as items,):
                return items
        raise ValueError(f"it calls {_shown(function)} in a way that no array or dictionary is made")

    def _describe(self, made: Any, state: Any) -> None:
        match made, state:
            case _Type(), (int(), str() as byte_order, *_) if byte_order in _LITTLE_ENDIAN:
                return
            case _Array(described=None), (
                1,
                tuple() as shape,
                _Type() as kind,
                bool() as fortran,
                _Bytes() as numbers,
            ):
                made.described = self._array(numbers, kind, shape, order="F" if fortran else "C")
            case _:
                raise ValueError(f"{_shown(made)} has a state that no array of floats has")

    def _array(
        self, numbers: _Bytes, kind: _Type, shape: tuple[Any, ...], *, order: Literal["C", "F"]
    ) -> MappedArray:
        if not all(type(size) is int and size >= 0 for size in shape):
            raise ValueError("a shape is not made of sizes")
        return MappedArray(
            shape=shape,
            dtype=float_type(kind.name, shape=shape, size_bytes=numbers.count),
            buffer=self._buffer,
            pieces=(StoredPiece(begin=0, count=math.prod(shape), offset_bytes=numbers.offset),),
            order=order,
        )


def _named(imported: str) -> _Named:
    if imported not in _KNOWN:
        raise ValueError(f"it imports {imported[:_LONGEST_KEY]!r}")
    return _KNOWN[imported]


def _flattened(tree: Any) -> dict[str, MappedArray]:
    """Return the arrays by their keys; a dictionary may be in several others, and in itself."""
    arrays: dict[str, MappedArray] = {}
    left = [((), tree)]
    visited = 0
    while left:
        if visited + len(left) > _MOST_ARRAYS:
            raise ValueError(f"it has more than {_MOST_ARRAYS} arrays")
        keys, value = left.pop()
        visited += 1
        if len(keys) > _MOST_LEVELS:
            raise ValueError(f"it has dictionaries more than {_MOST_LEVELS} deep")
        match value:
            case dict():
                left += [((*keys, key), inside) for key, inside in value.items()]
            case _Array(described=MappedArray() as array):
                arrays["/".join(keys)] = array
            case _:
                raise ValueError(f"{short('/'.join(keys))} is {_shown(value)}, not an array")
    return arrays


def _shown(value: Any) -> str:
    return value.name if isinstance(value, _Named) else type(value).__name__.lstrip("_")
