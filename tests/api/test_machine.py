"""The devices of a process, whatever it did before."""

import re
import subprocess
import sys

import pytest

BEGUN = """
import sys
import jax.numpy as jnp
import ringworld as rw
from ringworld.api.machine import begin_process, on_this_machine

def asked(devices=None):
    try:
        return on_this_machine(rw.presets.smoke(), devices=devices).devices
    except rw.InputError as error:
        return error.field

def refused(call):
    try:
        call()
    except rw.InputError as error:
        return error.field

"""


def said(program: str) -> tuple[str, str]:
    """Run a program in a process of its own; return its output and its stderr."""
    made = subprocess.run([sys.executable, "-c", BEGUN + program], capture_output=True, text=True, check=True)
    return made.stdout.strip(), made.stderr


@pytest.mark.parametrize(
    ("program", "devices"),
    [
        ("print(asked())", "2"),
        ("print(asked(4))", "4"),
        ("begin_process(rw.presets.smoke()); jnp.zeros(1); print(asked())", "2"),
        # The README loads a model, and then trains one.
        ("jnp.zeros(1); begin_process(rw.presets.smoke()); print(asked())", "1"),
        ("jnp.zeros(1); print(asked(1), asked(4))", "1 devices"),
        ("print(refused(lambda: rw.prepare('smoke', tokenizer='a', out='b')))", "run"),
    ],
)
def test_a_run_takes_what_it_asks_for_or_what_the_process_has(program, devices):
    assert said(program)[0] == devices


def test_a_run_on_fewer_devices_than_it_asks_for_is_told():
    (told,) = (
        line for line in said("jnp.zeros(1); asked()")[1].splitlines() if line.startswith("ringworld: ")
    )
    assert {"2", "1"} <= set(re.findall(r"\d+", told))
    assert "ringworld: " not in said("asked()")[1]
