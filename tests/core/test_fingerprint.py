import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from ringworld.core.fingerprint import fingerprint
from ringworld.core.mesh import make_mesh
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.sharding import spec

VALUES = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)


def test_it_changes_with_the_smallest_change():
    tree = {"a": jnp.asarray(VALUES), "b": jnp.int32(3)}
    same = {"a": jnp.asarray(VALUES.copy()), "b": jnp.int32(3)}
    assert fingerprint(tree) == fingerprint(same)
    changed = VALUES.copy()
    changed[5, 7] = np.nextafter(changed[5, 7], np.float32(9))
    square = VALUES[:, :6]
    others = [
        {"a": jnp.asarray(changed), "b": jnp.int32(3)},
        {"a": jnp.asarray(VALUES), "b": jnp.int32(4)},
        {"a": jnp.asarray(VALUES), "c": jnp.int32(3)},
        {"a": jnp.asarray(VALUES.reshape(8, 6)), "b": jnp.int32(3)},
        {"a": jnp.asarray(VALUES[::-1].copy()), "b": jnp.int32(3)},
        {"a": jnp.asarray(square), "b": jnp.int32(3)},
        {"a": jnp.asarray(square.T.copy()), "b": jnp.int32(3)},
        {"a": jnp.asarray(VALUES, jnp.bfloat16), "b": jnp.int32(3)},
    ]
    assert len({fingerprint(one) for one in (tree, *others)}) == 1 + len(others)


def test_it_does_not_depend_on_the_mesh():
    mesh = make_mesh(MeshConfig(ring=2, tensor=2), devices=jax.devices()[:4])
    with jax.set_mesh(mesh):
        spread = jax.device_put(VALUES, NamedSharding(mesh, spec("vocab", "weight")))
        assert not spread.is_fully_replicated
        assert fingerprint([spread]) == fingerprint([jax.device_put(VALUES, NamedSharding(mesh, spec()))])
    assert fingerprint([jnp.asarray(VALUES)]) == fingerprint([jnp.asarray(VALUES.copy())])
