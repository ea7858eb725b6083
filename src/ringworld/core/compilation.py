"""Compiled programs kept from one process to the next."""

import os
import tempfile
import warnings
from pathlib import Path

import jax

FOLDER_VARIABLE = "RINGWORLD_COMPILATION_CACHE"
"""Environment variable: the folder of the cache, or `off`."""
_LARGEST_BYTES = 2**31
_LEAST_COMPILE_SECONDS = 0.1


def keep_compiled_programs() -> None:
    """Let jax keep what it compiles in a folder of the user, bounded in size; call it before it compiles.

    The folder is `$XDG_CACHE_HOME/ringworld/xla`, or `~/.cache/ringworld/xla`, or what
    `$RINGWORLD_COMPILATION_CACHE` names; `off` there keeps nothing. Where jax has a folder already, such as
    by `$JAX_COMPILATION_CACHE_DIR`, that one stays; where ours cannot be written there is none.
    """
    folder = cache_folder()
    if folder is None or jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return
    # A full disk, or a program that was damaged: it is compiled again, and a warning helps nobody.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache entry")
    jax.config.update("jax_compilation_cache_max_size", _LARGEST_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _LEAST_COMPILE_SECONDS)
    jax.config.update("jax_compilation_cache_dir", str(folder))


def cache_folder() -> Path | None:
    """Return where compiled programs are kept, by the environment; None for nowhere."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named is not None:
        return None if named in ("", "off") else Path(named).expanduser()
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    # The specification of these folders wants a relative one ignored.
    return caches / "ringworld" / "xla" if caches.is_absolute() else None
