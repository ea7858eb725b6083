import functools

import jax
import jax.numpy as jnp
import numpy as np

from ringworld.training.config import OptimizerConfig
from ringworld.training.optimizer import apply_gradient, decayed, init_moments, learning_rate
from tests.training.meshes import mesh_of, state_on
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
    marks = decayed(state_on(mesh_of(), training()).params)
    kept = [marks.embed, marks.norm, marks.layers.attention_norm, marks.layers.mlp_norm]
    assert not any(kept)
    assert sum(jax.tree.leaves(marks)) == len(jax.tree.leaves(marks)) - len(kept)


def test_updates_are_those_of_adamw_over_clipped_gradients():
    """The second gradient is far longer than the first, so that moments differ without the clipping."""
    optimizer = OptimizerConfig(weight_decay=0.5, clip_norm=1e-3)
    config = training(optimizer=optimizer)
    params = state_on(mesh_of(), config).params
    gradients = [params, jax.tree.map(lambda leaf: 100 * leaf[::-1], params)]
    step = jax.jit(functools.partial(apply_gradient, config))
    after, moments = params, init_moments(config, params)
    for gradient in gradients:
        after, moments = step(gradient, moments, after)

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
        np.testing.assert_allclose(got, weight, rtol=0, atol=50 * 2.0**-24 * 1e-2 + 4 * 2.0**-23)
