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


def test_the_first_update_is_the_clipped_sign_of_the_gradient_and_the_decay():
    config = training(optimizer=OptimizerConfig(weight_decay=0.5, clip_norm=1e-3, epsilon=1e-12))
    params = state_on(mesh_of(), config).params
    step = jax.jit(lambda params: apply_gradient(config, params, init_moments(config, params), params))
    after, _ = step(params)
    rate = float(stage().learning_rate) / 5
    for weight, new, decay in zip(*map(jax.tree.leaves, (params, after, decayed(params)))):
        expected = weight - rate * (np.sign(weight) + (0.5 * weight if decay else 0))
        np.testing.assert_allclose(new, expected, rtol=0, atol=1e-5)
