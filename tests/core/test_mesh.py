import shutil

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ringworld.core.checkpoint import Checkpoints
from ringworld.core.errors import InputError
from ringworld.core.mesh import make_mesh
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.sharding import spec


def test_the_table_names_the_axes_of_each_dimension():
    assert spec("batch", "seq", "embed") == PartitionSpec(("data", "fsdp"), ("ring", "ulysses"), None)
    assert spec("weight", "heads", "head") == PartitionSpec(("fsdp", "ring", "ulysses"), "tensor", None)


def test_a_device_count_that_does_not_fit_is_refused_with_the_axes():
    with pytest.raises(InputError, match=r"8 devices, expected 6 \(data 2, ring 3\)"):
        make_mesh(MeshConfig(data=2, ring=3))
    with pytest.raises(InputError, match="mesh axis ring"):
        MeshConfig(ring=0)


def test_a_checkpoint_comes_back_on_a_mesh_of_another_shape(tmp_path):
    values = jnp.arange(32.0).reshape(8, 4)
    ring8 = NamedSharding(make_mesh(MeshConfig(ring=8)), spec("weight", "embed"))
    data8 = NamedSharding(make_mesh(MeshConfig(tensor=2, fsdp=4)), spec("weight", "mlp"))
    saved = Checkpoints(tmp_path / "c", keep=2)
    for step in (1, 2, 3):
        saved.save(step, {"w": jax.device_put(values + step, ring8)}, {"loader": {"next": step}})
    saved.close()
    again = Checkpoints(tmp_path / "c")
    restored = again.restore({"w": jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=data8)})
    assert restored is not None
    assert (restored.step, restored.meta) == (3, {"loader": {"next": 3}})
    assert restored.tree["w"].sharding == data8
    assert (restored.tree["w"] == values + 3).all()
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["2", "3"]
    again.close()


def test_a_damaged_checkpoint_is_named_with_what_to_do(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.save(7, {"w": jnp.zeros(4)}, {})
    shutil.rmtree(tmp_path / "c" / "7" / "tree")
    with pytest.raises(InputError, match=r"c/7: got a checkpoint that cannot be read.*Delete that folder"):
        Checkpoints(tmp_path / "c").restore({"w": jnp.zeros(4)})


def test_a_folder_without_a_checkpoint_restores_nothing(tmp_path):
    assert Checkpoints(tmp_path / "c").restore({"w": jnp.zeros(2)}) is None
