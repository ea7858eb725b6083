import functools
from collections import Counter
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ringworld.training.config import MomentType, OptimizerConfig
from ringworld.training.optimizer import apply_gradient, decayed, init_moments, learning_rate, reset_moments
from tests.training.meshes import mesh_of, model_on
from tests.training.tiny_run import stage, training


def test_the_learning_rate_warms_up_and_falls_anew_in_each_stage():
    stages = (
        stage("a", steps=7, warmup_steps=3, learning_rate=4.0, min_learning_rate=2.0),
        stage("b", steps=2, warmup_steps=0, learning_rate=1.0),
    )
    rates = jax.vmap(lambda step: learning_rate(step, training(stages=stages)))(
        jnp.arange(9, dtype=jnp.int32)
    )
    cosine = [2 + (1 + np.cos(np.pi * part)) for part in (0, 0.25, 0.5, 0.75)]
    np.testing.assert_allclose(rates, [1, 2, 3, *cosine, 1, 0.5], rtol=1e-6)


def test_norms_and_the_embedding_do_not_decay():
    marks = decayed(model_on(mesh_of()))
    kept = [marks.embed, marks.norm, marks.layers.attention_norm, marks.layers.mlp_norm]
    assert not any(kept)
    assert sum(jax.tree.leaves(marks)) == len(jax.tree.leaves(marks)) - len(kept)


@pytest.mark.parametrize(
    ("moment_dtype", "error"),
    # Moments of bfloat16 are off by 2 ** -9 of themselves after the first update. But for that the second one
    # moves a weight by the rate at most, 2/5 of 1e-2, and the error of each moment counts for less than all.
    [("float32", 0.0), ("bfloat16", 2 * 2.0**-9 * 4e-3)],
)
def test_updates_are_those_of_adamw_over_clipped_gradients(moment_dtype: MomentType, error: float):
    """The second gradient is far longer than the first, so that moments differ without the clipping."""
    optimizer = OptimizerConfig(weight_decay=0.5, clip_norm=1e-3, moment_dtype=moment_dtype)
    config = training(optimizer=optimizer)
    params = model_on(mesh_of())
    gradients = [params, jax.tree.map(lambda leaf: 100 * leaf[::-1], params)]
    step = jax.jit(functools.partial(apply_gradient, config))
    after, moments = params, init_moments(config, params)
    for gradient in gradients:
        after, moments = step(gradient, moments, after)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(moments) if leaf.ndim} == {moment_dtype}

    norms = [np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(one))) for one in gradients]
    assert min(norms) > optimizer.clip_norm
    for start, got, decays, *of_leaf in zip(
        *map(jax.tree.leaves, (params, after, decayed(params), *gradients))
    ):
        weight, mean, square = np.float64(start), 0.0, 0.0
        for i, (gradient, norm) in enumerate(zip(of_leaf, norms), start=1):
            clipped = np.float64(gradient) * optimizer.clip_norm / norm
            mean = optimizer.beta1 * mean + (1 - optimizer.beta1) * clipped
            square = optimizer.beta2 * square + (1 - optimizer.beta2) * clipped**2
            scaled = (mean / (1 - optimizer.beta1**i)) / (
                np.sqrt(square / (1 - optimizer.beta2**i)) + optimizer.epsilon
            )
            rate = stage().learning_rate * i / (stage().warmup_steps + 1)
            weight = weight - rate * (scaled + (optimizer.weight_decay * weight if decays else 0))
        # Some 50 roundings of float32 of a step of at most 1e-2, and of a weight below 2.
        np.testing.assert_allclose(got, weight, rtol=0, atol=error + 50 * 2.0**-24 * 1e-2 + 4 * 2.0**-23)


def test_updates_of_muon_are_orthogonal_and_as_large_as_those_of_adamw():
    """On every mesh; vectors and the embedding move as by AdamW."""
    config = training(optimizer=OptimizerConfig(kind="muon", weight_decay=0.5))
    plain = replace(config, optimizer=replace(config.optimizer, kind="adamw"))
    rate = stage().learning_rate / (stage().warmup_steps + 1)
    for axes in ({}, {"fsdp": 2, "tensor": 2}, {"ring": 4}):
        mesh = mesh_of(**axes)
        with jax.set_mesh(mesh):
            params = model_on(mesh)
            gradient = jax.tree.map(lambda leaf: leaf[::-1], params)
            (after, moments), (adamw, _) = (
                jax.jit(functools.partial(apply_gradient, one))(gradient, init_moments(one, params), params)
                for one in (config, plain)
            )
        kept = Counter((leaf.shape, leaf.sharding.spec) for leaf in jax.tree.leaves(moments))
        assert kept >= Counter((leaf.shape, leaf.sharding.spec) for leaf in jax.tree.leaves(params))
        matrices = decayed(params)
        for start, moved, by_adamw, of, is_matrix in zip(
            *map(jax.tree.leaves, (params, after, adamw, gradient, matrices))
        ):
            assert moved.sharding == start.sharding
            if not is_matrix or start.ndim < 3:
                np.testing.assert_array_equal(moved, by_adamw)
                continue
            begun, ended, of_all = (np.asarray(x, np.float64) for x in (start, moved, of))
            inputs = 2 if start is params.layers.attention.wo else 1
            for layer, gradient_of in zip((begun - ended) / rate - 0.5 * begun, of_all):
                rows = int(np.prod(layer.shape[:inputs]))
                wanted = _orthogonalized(gradient_of.reshape(rows, -1))
                # Five iterations, each of which makes an error of float32 up to 3.4 times as large.
                np.testing.assert_allclose(layer.reshape(rows, -1), wanted, atol=3.4**5 * 2.0**-22)


def test_moments_that_are_reset_are_those_of_a_first_update_but_the_schedule_goes_on():
    for kind in ("adamw", "muon"):
        config = training(optimizer=OptimizerConfig(kind=kind))
        mesh = mesh_of()
        with jax.set_mesh(mesh):
            params = model_on(mesh)
            first = init_moments(config, params)
            old = jax.tree.map(lambda leaf: leaf + 3 if leaf.dtype == jnp.int32 else leaf + 0.5, first)
            fresh = reset_moments(config, old, params)
        for began, left, begins in zip(*map(jax.tree.leaves, (first, old, fresh))):
            if began.dtype != jnp.int32:
                np.testing.assert_array_equal(begins, began)
            assert begins.dtype == left.dtype
        counts = Counter(int(leaf) for leaf in jax.tree.leaves(fresh) if leaf.dtype == jnp.int32)
        assert counts.keys() == {0, 3}  # of updates that the moments are over, and of the schedule


def _orthogonalized(matrix: np.ndarray) -> np.ndarray:
    """Iterate as Newton and Schulz do with Jordan's coefficients, and scale as arXiv 2502.16982 does."""
    x = matrix / np.linalg.norm(matrix)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
    # So near that a singular value is off by a third; at this scale an update is as large as one of AdamW.
    assert np.abs(np.linalg.svd(x, compute_uv=False)[: min(x.shape)] - 1).max() < 0.5
    return 0.2 * np.sqrt(max(x.shape)) * x
