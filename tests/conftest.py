"""Eight simulated devices, strict promotion and warnings as errors, for every test."""

import atexit
import gc
import os
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

# Tests compile much and compute little: this compiles the same programs several times faster. XLA ends a
# process that names a flag which its version lacks.
_FASTER = "--xla_backend_optimization_level=0"
if version("jaxlib").startswith("0.10."):
    _FASTER += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FASTER}".strip()

# Programs of an earlier run would make tests depend on it.
os.environ["RINGWORLD_COMPILATION_CACHE"] = "off"

if "PYTEST_XDIST_WORKER" in os.environ:
    _PROGRAMS = os.environ.pop("JAX_COMPILATION_CACHE_DIR")
else:
    _PROGRAMS = tempfile.mkdtemp(prefix="ringworld-tests-")
    atexit.register(shutil.rmtree, _PROGRAMS, ignore_errors=True)

import hypothesis  # noqa: E402
import jax  # noqa: E402 (reads the environment)
import pytest  # noqa: E402

# The processes that tests start compile the same programs as each other and as this one, most of what so
# small a run costs, so all share what they compile. With a bound on its size jax would look through the whole
# folder for each program that it keeps; without one, what is read while it is written is compiled again.
os.environ |= {
    "JAX_COMPILATION_CACHE_DIR": _PROGRAMS,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    "PYTHONWARNINGS": "ignore:Error reading persistent compilation cache entry",
}
jax.config.update("jax_compilation_cache_dir", _PROGRAMS)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

# The same examples in every run, so that a failure is a change of ours.
hypothesis.settings.register_profile("ringworld", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("ringworld")

# Tracing makes many small objects beside many that stay: collecting as often as usual takes a tenth of the
# time.
gc.freeze()
gc.set_threshold(50_000, 20, 100)

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

_MANY_MAPS = 30_000
_FIRST = (
    "cli/test_quickstart.py",
    "training/test_loop.py",
    "vision/test_train.py",
    "api/test_train_processes.py",
    "examples/test_examples.py",
)


def pytest_collection_modifyitems(items):
    """Put the longest files first, so that no worker waits for another at the end.

    The examples run programs that the quickstart compiles, so they begin when it has.
    """
    places = {name: place for place, name in enumerate(_FIRST)}
    items.sort(key=lambda item: places.get("/".join(item.path.parts[-2:]), len(places)))


@pytest.fixture(autouse=True, scope="session")
def shared_bytecode():
    """Where none may be written beside the sources, the processes that tests start would all compile them."""
    with pytest.MonkeyPatch.context() as patch:
        if sys.dont_write_bytecode:
            patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
            patch.setenv("PYTHONPYCACHEPREFIX", os.path.join(_PROGRAMS, "bytecode"))
        yield


@pytest.fixture(autouse=True, scope="module")
def forgotten_programs():
    """Linux gives a process 65,530 maps of memory, of which compiled programs hold many, and then ends it."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > _MANY_MAPS:
        jax.clear_caches()
        gc.collect()
