import pytest

from ringworld.core.errors import InputError
from ringworld.planning.machines import GPUS, TPUS, gpu_machine, peak_flops_per_second, tpu_slice


@pytest.mark.parametrize(
    ("topology", "chips", "chip"),
    [("v5p:4x8x8", 256, "v5p"), ("v4:2x2x1", 4, "v4"), ("v6e:16x16", 256, "v6e"), ("v5e:2x4", 8, "v5e")],
)
def test_a_slice_has_the_chips_of_its_shape(topology, chips, chip):
    machine = tpu_slice(topology)
    assert (machine.name, machine.chips, machine.chip) == (topology, chips, TPUS[chip])


@pytest.mark.parametrize(
    ("topology", "nearest"),
    [
        ("v5p:4x8x9", "v5p:4x8x8"),
        ("v5p:8x8x4", "v5p:4x8x8"),
        ("v5p:4x4", "v5p:2x4x4"),
        ("v5e:3x4", "v5e:4x4"),
        ("v6e:9999x9999", "v6e:16x16"),
        ("v4:0x4x4", "v4:2x4x4"),
        ("v4:16x16x24", "v4:16x16x16"),
    ],
)
def test_a_shape_that_does_not_exist_is_refused_with_the_nearest(topology, nearest):
    with pytest.raises(InputError) as refused:
        tpu_slice(topology)
    assert (refused.value.field, refused.value.value) == ("topology", topology)
    assert refused.value.suggested == nearest
    assert tpu_slice(nearest)


@pytest.mark.parametrize(
    "topology", ["v9:4x4", "v5p", "v5p:", "v5p:axb", ":4x4", "v5p:4x8x8 ", "", "v5p-512"]
)
def test_what_names_no_slice_is_an_input_error(topology):
    with pytest.raises(InputError):
        tpu_slice(topology)


@pytest.mark.parametrize(
    ("accelerator", "topology"),
    [("v4-512", "v4:4x8x8"), ("v5p-8", "v5p:2x2x1"), ("v5litepod-256", "v5e:16x16"), ("v6e-16", "v6e:4x4")],
)
def test_the_type_of_an_accelerator_is_answered_by_the_topology_of_its_slice(accelerator, topology):
    with pytest.raises(InputError) as refused:
        tpu_slice(accelerator)
    assert (refused.value.field, refused.value.suggested) == ("topology", topology)


def test_gpus_of_several_nodes_are_joined_by_network_cards():
    one, many = gpu_machine("8xH200"), gpu_machine("64xH200")
    assert (one.chips, one.chip) == (8, GPUS["H200"])
    assert many.chip.link_bytes_per_second < one.chip.link_bytes_per_second
    assert many.chip.hbm_bytes == one.chip.hbm_bytes


@pytest.mark.parametrize("gpus", ["8xh200", "0xH200", "H200", "8x", "-1xH200", "8xV5p", "", f"{10**9}xH100"])
def test_what_names_no_gpus_is_an_input_error(gpus):
    with pytest.raises(InputError):
        gpu_machine(gpus)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("NVIDIA H200", "H200"),
    ],
)
def test_the_peak_of_a_device_is_found_by_what_jax_calls_it(kind, name):
    assert peak_flops_per_second(kind) == (TPUS | GPUS)[name].flops_per_second


@pytest.mark.parametrize(
    "kind",
    ["cpu", "NVIDIA H100 PCIe", "NVIDIA H200 NVL", "NVIDIA GH200 480GB", "NVIDIA H100 MIG 1g.10gb", ""],
)
def test_the_peak_of_another_device_is_not_known(kind):
    assert peak_flops_per_second(kind) is None
