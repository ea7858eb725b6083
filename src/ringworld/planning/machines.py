"""Chips and the machines made of them, by the names that clouds use; without importing jax."""

import math
import re
from dataclasses import dataclass, replace
from typing import Final

from ringworld.core.errors import InputError, not_a_choice
from ringworld.core.ranges import check_number

_GIB = 2**30
_MOST_GPUS = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Chip:
    """What one device has, as its maker says."""

    name: str
    hbm_bytes: int
    """Memory that programs can have."""
    flops_per_second: float
    """Of matrix products in bfloat16, without sparsity."""
    hbm_bytes_per_second: float
    link_bytes_per_second: float
    """What the device can send along one axis of the mesh: over both links of one dimension of a TPU's torus,
    or over all of NVLink."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """Equal chips, and how they are wired."""

    name: str
    """`v5p:4x8x8` or `8xH200`."""
    chip: Chip
    chips: int


def _chip(name: str, *, hbm: float, tflops: float, hbm_gbps: float, link_gbps: float) -> Chip:
    return Chip(
        name=name,
        hbm_bytes=int(hbm),
        flops_per_second=tflops * 1e12,
        hbm_bytes_per_second=hbm_gbps * 1e9,
        link_bytes_per_second=link_gbps * 1e9,
    )


# The memory is what libtpu's compiler says that it has to give; the rest stands in Google Cloud's pages of
# each chip, where the interconnect is the sum over all links, both ways.
TPUS: Final = {
    "v4": _chip("TPU v4", hbm=30.75 * _GIB, tflops=275.0, hbm_gbps=1228.0, link_gbps=100.0),
    "v5e": _chip("TPU v5e", hbm=15.75 * _GIB, tflops=197.0, hbm_gbps=819.0, link_gbps=100.0),
    "v5p": _chip("TPU v5p", hbm=95.74 * _GIB, tflops=459.0, hbm_gbps=2765.0, link_gbps=200.0),
    "v6e": _chip("TPU v6e", hbm=31.25 * _GIB, tflops=918.0, hbm_gbps=1640.0, link_gbps=200.0),
}
# NVIDIA's data sheets of the SXM modules, whose memory is some percent more in truth. jax takes three
# quarters of it, unless XLA_PYTHON_CLIENT_MEM_FRACTION says more.
GPUS: Final = {
    "A100": _chip("A100", hbm=80e9, tflops=312.0, hbm_gbps=2039.0, link_gbps=300.0),
    "H100": _chip("H100", hbm=80e9, tflops=989.0, hbm_gbps=3350.0, link_gbps=450.0),
    "H200": _chip("H200", hbm=141e9, tflops=989.0, hbm_gbps=4800.0, link_gbps=450.0),
    "B200": _chip("B200", hbm=180e9, tflops=2250.0, hbm_gbps=7700.0, link_gbps=900.0),
}
GPUS_OF_A_NODE: Final = 8
"""GPUs that NVLink connects; between nodes each has a network card of `NODE_BYTES_PER_SECOND`."""
NODE_BYTES_PER_SECOND: Final = 50e9
_FLAT_SHAPES: Final = ((2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_SMALL_SOLID_SHAPES: Final = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))
_MOST_CHIPS: Final = {"v4": 4096, "v5p": 6144}
"""Of one slice whose chips form a solid torus."""


_KINDS: Final = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
}
"""What jax calls a TPU."""
_OTHER_CARDS: Final = ("PCIe", "NVL", "MIG")
"""In the name of a GPU: it is not the SXM module, or not all of it."""


def peak_flops_per_second(device_kind: str) -> float | None:
    """Return the peak of a device in bfloat16 by what jax calls it; None where it is not known here.

    Example:
        "TPU v5 lite" has 197e12, "NVIDIA H100 80GB HBM3" 989e12; "NVIDIA H100 PCIe" and "cpu" are not known.
    """
    if device_kind in _KINDS:
        return TPUS[_KINDS[device_kind]].flops_per_second
    words = set(re.split(r"[ -]", device_kind))
    named = [] if words.intersection(_OTHER_CARDS) else [GPUS[name] for name in GPUS if name in words]
    return named[0].flops_per_second if named else None


def tpu_slice(topology: str) -> Machine:
    """Return the slice of a name such as `v5p:4x8x8`: a generation, and chips along each dimension.

    | generation | shapes |
    |---|---|
    | v5e, v6e | 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16 |
    | v4, v5p | 2x2x1, 2x2x2, 2x2x4, 2x4x4, and multiples of 4 in each dimension, the smallest first |

    Raises:
        InputError: there is no such generation, or no slice of this shape; the nearest is named.
    """
    match = re.fullmatch(r"(\w+):(\d{1,4}(?:x\d{1,4})*)", topology)
    if match is None:
        such = _of_accelerator(topology) or "v5p:4x8x8"
        raise InputError(
            f"{topology!r} is not the topology of a TPU slice",
            field="topology",
            value=topology,
            remedy=f"name a generation and a shape, such as {such}",
            suggested=such,
        )
    generation, shape = match[1], tuple(map(int, match[2].split("x")))
    if generation not in TPUS:
        raise not_a_choice("TPU generation", generation, choices=TPUS)
    shapes = _shapes(generation)
    if shape not in shapes:
        nearest = min(shapes, key=lambda other: _distance(shape, other))
        named = f"{generation}:{'x'.join(map(str, nearest))}"
        raise InputError(
            f"there is no {generation} slice of {match[2]} chips",
            field="topology",
            value=topology,
            remedy=f"the nearest is {named}",
            suggested=named,
        )
    return Machine(name=topology, chip=TPUS[generation], chips=math.prod(shape))


def _of_accelerator(name: str) -> str | None:
    """Return the topology of a slice that Google Cloud calls by its type; it is the most compact of its size.

    Example:
        `v4-512`, which counts two cores a chip, is v4:4x8x8, and `v6e-16` v6e:4x4.
    """
    match = re.fullmatch(r"(v\d(?:e|p|litepod)?)-(\d{1,5})", name)
    generation = match and match[1].replace("litepod", "e")
    if not match or generation not in TPUS:
        return None
    chips = int(match[2]) // (2 if generation in _MOST_CHIPS else 1)
    shapes = [shape for shape in _shapes(generation) if math.prod(shape) == chips]
    return f"{generation}:{'x'.join(map(str, min(shapes, key=max)))}" if shapes else None


def gpu_machine(gpus: str) -> Machine:
    """Return the GPUs of a name such as `8xH200`; those of several nodes are joined by network cards.

    Raises:
        InputError: it is no such name, or there is no such GPU.
    """
    match = re.fullmatch(r"(\d+)x(\w+)", gpus)
    if match is None:
        remedy = "give a number and a kind, such as 8xH200"
        raise InputError(f"{gpus!r} is no number of GPUs", field="gpus", value=gpus, remedy=remedy)
    if match[2] not in GPUS:
        raise not_a_choice("GPU", match[2], choices=GPUS)
    chips, chip = int(match[1]), GPUS[match[2]]
    check_number("gpus", chips, least=1, most=_MOST_GPUS)
    if chips > GPUS_OF_A_NODE:
        chip = replace(chip, link_bytes_per_second=NODE_BYTES_PER_SECOND)
    return Machine(name=gpus, chip=chip, chips=chips)


def _shapes(generation: str) -> list[tuple[int, ...]]:
    if generation not in _MOST_CHIPS:
        return list(_FLAT_SHAPES)
    most = _MOST_CHIPS[generation]
    cubes = [
        (x, y, z)
        for x in range(4, most, 4)
        for y in range(x, most // x + 1, 4)
        for z in range(y, most // (x * y) + 1, 4)
    ]
    return [*_SMALL_SOLID_SHAPES, *cubes]


def _distance(asked: tuple[int, ...], there: tuple[int, ...]) -> float:
    """Return how unlike two shapes are: the factors between their sides, as logarithms."""
    longest = max(len(asked), len(there))
    one, other = (sorted((*shape, *(1,) * (longest - len(shape)))) for shape in (asked, there))
    return sum(abs(math.log(max(a, 0.5) / b)) for a, b in zip(one, other))
