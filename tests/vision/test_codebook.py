import functools

import jax
import jax.numpy as jnp
import numpy as np

from ringworld.vision.codebook import CodebookAverages, follow_latents, init_codebook
from ringworld.vision.vqgan import nearest_codes


def test_initialization_finds_every_cluster_however_rare():
    random = np.random.default_rng(0)
    centers = np.array([[0, 0], [10, 0], [0, 10], [10, 10]], np.float32)
    which = np.repeat(np.arange(4), [500, 5, 3, 2])  # mostly background, as frames are
    latents = jnp.asarray(centers[which] + random.normal(0, 0.01, (510, 2)).astype(np.float32))
    averages = jax.jit(functools.partial(init_codebook, codes=4))(latents, key=jax.random.key(0))
    assert sorted(averages.counts.tolist()) == [2, 3, 5, 500]
    found = np.asarray(averages.codebook())
    np.testing.assert_allclose(found[np.lexsort(found.T)], centers[np.lexsort(centers.T)], atol=0.02)


def test_codes_move_to_the_mean_of_the_latents_that_choose_them():
    averages = CodebookAverages(jnp.ones(2), jnp.array([[0.0], [10.0]]))
    latents = jnp.array([[1.0], [1.0], [9.0]])
    follow = jax.jit(functools.partial(follow_latents, decay=0.9, revive_below=0.01))
    for step in range(200):
        chosen = nearest_codes(latents, averages.codebook())
        averages = follow(averages, latents, chosen, key=jax.random.key(step))
    np.testing.assert_allclose(averages.codebook(), [[1.0], [9.0]], rtol=1e-5)
    np.testing.assert_allclose(averages.counts, [2, 1], rtol=1e-5)


def test_a_dead_code_restarts_where_latents_are_badly_served():
    averages = CodebookAverages(jnp.array([5.0, 0.0101]), jnp.array([[0.0], [1.0]]))
    latents = jnp.array([[0.0]] * 99 + [[7.0]])
    follow = jax.jit(functools.partial(follow_latents, decay=0.9, revive_below=0.01))
    moved = follow(averages, latents, jnp.zeros(100, jnp.int32), key=jax.random.key(0))
    assert moved.codebook()[1].tolist() == [7.0]
