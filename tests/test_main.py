"""Ctrl-C at any moment of a command."""

import subprocess
import sys

import pytest

INTERRUPTED = """
import signal, sys
from importlib.abc import MetaPathFinder

out, module = sys.argv[1:]

class Interrupted(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == module:
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupted())
sys.argv = ["ringworld", *"generate --kind text --prompt a --model none --out".split(), out]
from ringworld.__main__ import main
try:
    main()
finally:
    print("not left at once")
"""


@pytest.mark.parametrize("module", ["tyro", "jax", "equinox", "ringworld.api.generate"])
def test_an_interrupt_while_a_module_is_imported_ends_the_command_in_silence(module, tmp_path):
    ran = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, tmp_path, module], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "")
