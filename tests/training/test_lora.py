"""An adapter against the model into which it is merged: the same losses, and gradients by the chain rule."""

from operator import attrgetter
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from ringworld.core.errors import InputError
from ringworld.interop.hf_llama import read_weights, write_weights
from ringworld.model.config import Architecture
from ringworld.model.flops import training_flops
from ringworld.model.forward import Forward
from ringworld.model.lora_config import MATRICES, TARGETS, LoraConfig, Target
from ringworld.model.weights import Int8Weight
from ringworld.model.world_model import WorldModel
from ringworld.training.config import OptimizerConfig
from ringworld.training.loss import LossOutput
from ringworld.training.step import loss_and_gradient, update
from tests.training.meshes import mesh_of, model_on, on_devices, state_on
from tests.training.test_loss import ROUNDING
from tests.training.test_step import copy_batch
from tests.training.tiny_run import EXECUTION, MODEL, stage, training

LORA = LoraConfig(rank=2, alpha=6.0, base="float32")
SCALE = 3.0
FORWARD = Forward.of(MODEL, EXECUTION)


def losses_and_gradients(params: Any, mesh: Mesh, frozen: WorldModel | None = None) -> tuple[LossOutput, Any]:
    config = training(stages=(stage(),))
    run = jax.jit(lambda *args: loss_and_gradient(*args, config=config, forward=FORWARD))
    return jax.device_get(run(params, on_devices(copy_batch(), mesh), frozen))


def flat(matrix: np.ndarray, *, inputs: int) -> np.ndarray:
    """Return matrices of all layers as [layers, in, out]."""
    return matrix.reshape(len(matrix), int(np.prod(matrix.shape[1 : 1 + inputs])), -1)


def test_losses_are_those_of_the_merged_model_and_gradients_follow_from_its_own():
    mesh, one = mesh_of(fsdp=2, ring=2, tensor=2), mesh_of()
    with jax.set_mesh(mesh):
        adapter = state_on(mesh, training(lora=LORA)).params
        found, gradient = losses_and_gradients(adapter, mesh, model_on(mesh))
    pairs: dict[Target, Any] = {target: jax.device_get(getattr(adapter, target)) for target in TARGETS}
    merged = model_on(one)
    for target, pair in pairs.items():
        path, inputs = MATRICES[target].path, len(MATRICES[target].inputs)
        a, b = flat(pair.a, inputs=inputs), flat(pair.b, inputs=1)
        leaf = attrgetter(path)(merged.layers)
        more = (SCALE * a @ b).reshape(leaf.shape) + np.asarray(leaf)
        there = attrgetter(f"layers.{path}")
        merged = eqx.tree_at(there, merged, jax.device_put(more, leaf.sharding))
    with jax.set_mesh(one):
        expected, whole = losses_and_gradients(merged, one)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=ROUNDING)
    for target, pair in pairs.items():
        inputs = len(MATRICES[target].inputs)
        a, b = flat(pair.a, inputs=inputs), flat(pair.b, inputs=1)
        of_product = flat(attrgetter(MATRICES[target].path)(whole.layers), inputs=inputs)
        wanted = SCALE * of_product @ b.swapaxes(1, 2), SCALE * a.swapaxes(1, 2) @ of_product
        got = getattr(gradient, target)
        for have, want in zip((flat(got.a, inputs=inputs), flat(got.b, inputs=1)), wanted):
            # Sums of some hundred float32 terms, in another order.
            np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


def stands_for(weight: Any) -> Any:
    """Return the numbers that an int8 weight stands for: of a head, or of the matrices of all layers."""
    if not isinstance(weight, Int8Weight):
        return weight
    values, scale = np.asarray(weight.values, np.float32), np.asarray(weight.scale)
    layers = scale.shape[:1] if values.ndim > 2 else ()
    inputs = (1,) * (values.ndim - scale.ndim)
    floats = values * scale.reshape(*layers, *inputs, *scale.shape[len(layers) :])
    return jax.device_put(floats, weight.values.sharding)


def is_int8(weight: Any) -> bool:
    return isinstance(weight, Int8Weight)


def test_a_base_of_int8_scores_as_the_numbers_that_it_stands_for_and_only_the_adapter_moves(tmp_path):
    mesh, config = mesh_of(tensor=2), training(stages=(stage(),), lora=LORA)
    with jax.set_mesh(mesh):
        state = state_on(mesh, config)
        write_weights(tmp_path, model_on(mesh), MODEL)
        rounded = read_weights(tmp_path, MODEL, weights="int8")
        meant = jax.tree.map(stands_for, rounded, is_leaf=is_int8)
        assert sum(map(is_int8, jax.tree.leaves(rounded, is_leaf=is_int8))) == 8
        step = jax.jit(lambda *args: update(*args, config=config, forward=FORWARD))
        pieces = on_devices(copy_batch(), mesh)
        after, output = step(state, pieces, rounded)
        _, wide = step(state, pieces, meant)
    np.testing.assert_allclose(output.loss.loss, wide.loss.loss, rtol=ROUNDING)
    assert jax.tree.structure(after.params) == jax.tree.structure(state.params)
    for new, old in zip(jax.tree.leaves(after.params), jax.tree.leaves(state.params)):
        assert (np.asarray(new) != np.asarray(old)).any()
    learned = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert learned == LORA.parameters(MODEL)
    assert sum(leaf.size for leaf in jax.tree.leaves(state.optimizer) if leaf.ndim) == 2 * learned


def test_flops_are_those_of_the_whole_without_gradients_of_what_stays():
    llama = Architecture(
        layers=32, embed=4096, heads=32, kv_heads=32, head=128, mlp=11_008, text_vocab=32_000
    )
    lora = LoraConfig(rank=16)
    # [in + out] of seven matrices, four of 4096 by 4096 and three of 4096 by 11008.
    assert lora.parameters(llama) == 32 * 16 * (4 * 8192 + 3 * (4096 + 11_008)) == 39_976_960
    whole, thin = (training_flops(llama, tokens=1, pairs=0, lora=one) for one in (None, lora))
    assert thin == whole * 2 // 3 + 6 * 39_976_960


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"rank": -1}, "lora.rank"),
        ({"alpha": 0.0}, "lora.alpha"),
        ({"targets": ()}, "lora.targets"),
        ({"targets": ("q_proj", "q_proj")}, "lora.targets"),
    ],
)
def test_an_adapter_that_cannot_be_is_refused(fields, field):
    with pytest.raises(InputError) as refused:
        LoraConfig(**fields)
    assert refused.value.field == field


def test_muon_moves_no_thin_matrices():
    with pytest.raises(InputError) as refused:
        training(lora=LORA, optimizer=OptimizerConfig(kind="muon"))
    assert refused.value.field == "optimizer.kind"
