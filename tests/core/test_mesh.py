import os
import subprocess
import sys

import pytest
from jax.sharding import PartitionSpec

from ringworld.core.errors import InputError
from ringworld.core.mesh import make_mesh
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.sharding import spec


def test_the_table_names_the_axes_of_each_dimension():
    assert spec("batch", "seq", "embed") == PartitionSpec(("data", "fsdp"), ("ring", "ulysses"), None)
    assert spec("weight", "heads", "head") == PartitionSpec(("fsdp", "ring", "ulysses"), "tensor", None)


def test_a_device_count_that_does_not_fit_is_refused():
    config = MeshConfig(data=2, ring=3)
    with pytest.raises(InputError) as refusal:
        make_mesh(config)
    assert (refusal.value.field, refusal.value.value) == ("mesh", config)


@pytest.mark.parametrize("size", [0, -1, 2**63])
def test_an_axis_of_no_devices_is_refused_by_name(size: int):
    with pytest.raises(InputError) as refusal:
        MeshConfig(ring=size)
    assert (refusal.value.field, refusal.value.value) == ("mesh.ring", size)


def test_many_programs_may_wait_for_the_same_simulated_devices():
    program = """
import jax
from ringworld.core.mesh import make_mesh, simulate_devices
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.sharding import spec

simulate_devices(2)
with jax.set_mesh(make_mesh(MeshConfig(ring=2))):
    x = jax.jit(lambda: jax.numpy.ones((64, 64), out_sharding=spec("seq", None)))()
    add = jax.jit(lambda x: (x + x.sum(axis=0)) / 65)
    for _ in range(300):
        x = add(x)
    print(float(x.max()))
"""
    environment = {name: value for name, value in os.environ.items() if name != "PJRT_NPROC"}
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=60
    )
    assert (ran.returncode, ran.stdout) == (0, "1.0\n"), ran.stderr
