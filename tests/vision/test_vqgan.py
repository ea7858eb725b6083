import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ringworld.vision.config import FrameTokenizerConfig
from ringworld.vision.vqgan import Conv, FrameAutoencoder, GroupNorm, nearest_codes


def test_lwm_weights_are_277_tensors_of_146244675_numbers():
    leaves = jax.tree.leaves(FrameAutoencoder.abstract(FrameTokenizerConfig()))
    assert len(leaves) == 277
    assert sum(leaf.size for leaf in leaves) == 146_244_675


def test_an_abstract_tree_takes_no_memory():
    """Its largest kernels have 8 GB each, two in every block."""
    config = FrameTokenizerConfig(channels=(15360,) * 5, res_blocks=20)
    assert sum(leaf.size for leaf in jax.tree.leaves(FrameAutoencoder.abstract(config))) > 2**38


def test_lwm_shapes_from_pixels_to_codes_and_back():
    config = FrameTokenizerConfig()
    autoencoder = FrameAutoencoder.abstract(config)
    pixels = jax.ShapeDtypeStruct((2, 256, 256, 3), jnp.float32)
    codes = jax.eval_shape(lambda tree, x: tree.encode(x), autoencoder, pixels)
    assert (codes.shape, codes.dtype) == ((2, 256), jnp.int32)
    assert jax.eval_shape(lambda tree, x: tree.decode(x), autoencoder, codes) == pixels


@pytest.mark.parametrize(
    ("tap", "expected"),
    [
        ((0, 0), [[0, 2], [8, 10]]),
        ((1, 1), [[5, 7], [13, 15]]),
        ((2, 2), [[10, 0], [0, 0]]),
    ],
)
def test_a_stride_of_two_pads_below_and_to_the_right(tap, expected):
    """A kernel of one tap picks the pixel that it lies on, or the padding."""
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    kernel = jnp.zeros((3, 3, 1, 1)).at[(*tap, 0, 0)].set(1.0)
    assert Conv(kernel, jnp.zeros(1))(x, stride=2)[0, :, :, 0].tolist() == expected


def test_group_norm_is_over_space_and_neighboring_channels():
    x = np.random.default_rng(0).normal(3, 2, (2, 4, 5, 6)).astype(np.float32)
    scale, bias = np.arange(6, dtype=np.float32), np.ones(6, np.float32)
    got = GroupNorm(jnp.asarray(scale), jnp.asarray(bias), 2)(jnp.asarray(x))
    grouped = x.astype(np.float64).reshape(2, 20, 2, 3)
    mean, variance = grouped.mean((1, 3), keepdims=True), grouped.var((1, 3), keepdims=True)
    expected = ((grouped - mean) / np.sqrt(variance + 1e-6)).reshape(x.shape) * scale + bias
    # A few roundings of numbers up to 20.
    np.testing.assert_allclose(got, expected, atol=20 * 8 * 2**-24)


def test_the_nearest_code_is_the_nearest_and_the_first_of_equals():
    codebook = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0], [1.0, 0.0]])
    latents = jnp.array([[0.4, 0.0], [0.6, 0.0], [0.0, 9.0]])
    assert nearest_codes(latents, codebook).tolist() == [0, 1, 2]
