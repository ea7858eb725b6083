import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ringworld.attention.inputs import check_inputs, check_self_attention, check_shardings, check_tokens
from ringworld.core.errors import InputError
from ringworld.core.mesh import abstract_mesh, make_mesh
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.sharding import spec


@pytest.mark.parametrize(
    ("q", "k", "v"),
    [
        ((2, 8, 4, 16), (2, 8, 2, 16), (2, 8, 4, 16)),
        ((2, 8, 4, 16), (2, 8, 2, 32), (2, 8, 2, 32)),
        ((2, 8, 4, 16), (1, 8, 2, 16), (1, 8, 2, 16)),
        ((2, 8, 64), (2, 8, 64), (2, 8, 64)),
        ((2, 8, 4, 16), (2, 0, 2, 16), (2, 0, 2, 16)),
    ],
    ids=["values unlike keys", "another head size", "another batch", "no heads", "no keys"],
)
def test_shapes_that_do_not_go_together_are_refused(q, k, v):
    arrays = [jnp.zeros(shape) for shape in (q, k, v)]
    with jax.sharding.use_abstract_mesh(abstract_mesh(MeshConfig())):
        with pytest.raises(InputError) as refused:
            check_inputs(*arrays)
    assert (refused.value.field, refused.value.value) == ("shape", (q, k, v))


@pytest.mark.parametrize(
    "order",
    [jnp.zeros((2, 1), jnp.int32), jnp.zeros(8, jnp.int32), jnp.zeros((1, 8), jnp.int32), jnp.zeros((2, 8))],
    ids=["one for a row", "no batch", "another batch", "floats"],
)
def test_every_token_needs_its_integers(order):
    right, q = jnp.zeros((2, 8), jnp.int32), jnp.zeros((2, 8, 4, 16))
    check_tokens({"order": right}, like=q)
    with pytest.raises(InputError) as refused:
        check_tokens({"order": right, "k_order": order}, like=q)
    assert (refused.value.field, refused.value.value) == ("k_order", (order.dtype, order.shape))


def test_arrays_that_are_cut_otherwise_are_refused():
    mesh, wanted = make_mesh(MeshConfig(ring=2), devices=jax.devices()[:2]), spec("batch", "seq")
    with jax.set_mesh(mesh):
        whole = jnp.zeros((4, 8))
        check_shardings(
            order=(jax.device_put(whole, NamedSharding(mesh, wanted)), wanted), first=(whole, P())
        )
        with pytest.raises(InputError) as refused:
            check_shardings(first=(whole, wanted))
        assert (refused.value.field, refused.value.value) == ("first", P(None, None))


def test_where_the_compiler_chooses_shardings_all_are_right():
    mesh = make_mesh(MeshConfig(ring=2), devices=jax.devices()[:2], shardings="inferred")
    with jax.set_mesh(mesh):
        check_shardings(order=(jnp.zeros((4, 8)), spec("batch", "seq")))


def test_only_decoding_has_more_keys_than_queries():
    q, k = jnp.zeros((2, 1, 4, 16)), jnp.zeros((2, 64, 2, 16))
    with jax.sharding.use_abstract_mesh(abstract_mesh(MeshConfig())):
        check_inputs(q, k, k)
        with pytest.raises(InputError) as refused:
            check_self_attention(q, k)
    assert (refused.value.field, refused.value.value) == ("seq", (1, 64))
