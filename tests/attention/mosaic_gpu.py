"""The interpreter of Mosaic GPU kernels, which jax does not export: the one place that needs its insides."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import pytest
from jax._src.pallas.mosaic.interpret import thread_map
from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams
from jax.core import eval_jaxpr

# Its threads wait for each other in a pool that has one for each simulated device: a block takes three.
INTERPRETER = InterpretGPUParams()


@contextmanager
def compiling_once() -> Iterator[None]:
    """Keep it from compiling a kernel anew for every thread of every block of the grid."""
    compiled: dict[int, tuple[Any, Any]] = {}
    lock = threading.Lock()

    def run(jaxpr: Any, consts: Any, *args: Any) -> None:
        with lock:
            if id(jaxpr) not in compiled:
                program = jax.jit(partial(eval_jaxpr, jaxpr)).lower(consts, *args).compile()
                compiled[id(jaxpr)] = jaxpr, program  # holds the jaxpr, so that no other gets its id
        compiled[id(jaxpr)][1](consts, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(thread_map, "_run_jaxpr", run)
        yield
