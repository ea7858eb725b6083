import importlib

import jax
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from ringworld.attention import xla
from ringworld.attention.backends import kernel_for
from ringworld.attention.config import AttentionConfig
from ringworld.core.errors import InputError
from ringworld.core.mesh import make_mesh
from ringworld.core.mesh_config import MeshConfig


def _module(name: str):
    return importlib.import_module(f"ringworld.attention.{name}")


def _on(platform: str, kind: str):
    device = AbstractDevice(device_kind=kind, num_cores=None, platform=platform)
    return jax.sharding.use_abstract_mesh(AbstractMesh((2,), ("ring",), abstract_device=device))


@pytest.mark.parametrize(
    ("platform", "kind", "kernel"),
    [
        ("tpu", "TPU v5 lite", "pallas_tpu"),
        ("tpu", "TPU v6 lite", "pallas_tpu"),
        ("gpu", "NVIDIA H100 80GB HBM3", "pallas_triton"),
        ("gpu", "NVIDIA A100-SXM4-80GB", "pallas_triton"),
        ("gpu", "NVIDIA B200", "pallas_triton"),
        ("gpu", "NVIDIA RTX PRO 6000 Blackwell", "pallas_triton"),
        ("gpu", "AMD Instinct MI300X", "xla"),
        ("gpu", "Tesla V100-SXM2-16GB", "xla"),
        ("cpu", "cpu", "xla"),
    ],
)
def test_the_devices_of_the_mesh_choose_the_kernel(platform, kind, kernel):
    with _on(platform, kind):
        assert kernel_for(AttentionConfig()) is _module(kernel)


def test_a_mesh_of_simulated_devices_runs_xla_and_so_does_no_mesh():
    with jax.set_mesh(make_mesh(MeshConfig(ring=8))):
        assert kernel_for(AttentionConfig()) is xla
    assert kernel_for(AttentionConfig()) is xla


def test_xla_may_be_chosen_anywhere():
    with _on("gpu", "NVIDIA H100 80GB HBM3"):
        assert kernel_for(AttentionConfig(kernel="xla")) is xla


@pytest.mark.parametrize(
    ("platform", "kind", "name", "serving"),
    [
        ("cpu", "cpu", "pallas_tpu", "xla"),
        ("gpu", "NVIDIA A100-SXM4-80GB", "pallas_tpu", "pallas_triton or xla"),
        ("tpu", "TPU v5 lite", "pallas_triton", "pallas_tpu or xla"),
    ],
)
def test_a_kernel_that_the_devices_cannot_run_is_refused_unless_interpreted(platform, kind, name, serving):
    with _on(platform, kind):
        with pytest.raises(InputError, match=f"got {name} on {kind}, expected {serving}"):
            kernel_for(AttentionConfig(kernel=name))
        interpreted = AttentionConfig(kernel=name, pallas_mode="interpreted")
        assert kernel_for(interpreted) is _module(name)
