import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ringworld.core.errors import InputError
from ringworld.vision.config import FrameTokenizerConfig
from ringworld.vision.frame_tokenizer import FrameTokenizer
from ringworld.vision.vqgan import FrameAutoencoder, draw_on_host

CONFIG = FrameTokenizerConfig(
    resolution=8, hidden=4, channel_multipliers=(1, 2), res_blocks=1, latent=3, codebook_size=32, groups=2
)
FRAMES = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def tokenizer():
    return FrameTokenizer(CONFIG, FrameAutoencoder.init(CONFIG, draw=draw_on_host(0)), batch_frames=4)


def test_frames_do_not_depend_on_their_batch(tokenizer):
    codes = tokenizer.encode(FRAMES)
    assert codes.shape == (7, 16) and codes.dtype == np.int32
    np.testing.assert_array_equal(codes[5:6], tokenizer.encode(FRAMES[5:6]))
    decoded = tokenizer.decode(codes)
    assert decoded.shape == FRAMES.shape and decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded[2:5], tokenizer.decode(codes[2:5]))


def test_no_frames(tokenizer):
    codes = tokenizer.encode(FRAMES[:0])
    assert codes.shape == (0, 16)
    assert tokenizer.decode(codes).shape == (0, 8, 8, 3)


def test_what_is_saved_is_what_is_loaded(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    loaded = FrameTokenizer.load(tmp_path, batch_frames=4)
    assert loaded.config == CONFIG
    np.testing.assert_array_equal(loaded.encode(FRAMES), tokenizer.encode(FRAMES))


def test_folders_that_do_not_hold_a_tokenizer(tokenizer, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        FrameTokenizer.load(tmp_path)
    tokenizer.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"codebook_size": 64}))
    with pytest.raises(InputError, match="other tensors than config.json says, such as .*codebook"):
        FrameTokenizer.load(tmp_path)
    weights = tmp_path / "model.safetensors"
    stored = load_file(weights)
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({name: array.astype(np.float64) for name, array in stored.items()}, weights)
    with pytest.raises(InputError, match="other tensors than config.json says, such as .*float64"):
        FrameTokenizer.load(tmp_path)
    # A number type that NumPy lacks.
    save_file({name: array.astype(ml_dtypes.float8_e4m3fn) for name, array in stored.items()}, weights)
    with pytest.raises(InputError, match="a damaged file .*float8"):
        FrameTokenizer.load(tmp_path)
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(InputError, match="a damaged file"):
        FrameTokenizer.load(tmp_path)
    weights.unlink()
    with pytest.raises(InputError, match="model.safetensors: got no such file"):
        FrameTokenizer.load(tmp_path)


def test_frames_and_codes_of_another_tokenizer(tokenizer):
    with pytest.raises(InputError, match="16 px"):
        tokenizer.encode(np.zeros((1, 16, 16, 3), np.uint8))
    with pytest.raises(InputError, match="9 a frame"):
        tokenizer.decode(np.zeros((1, 9), np.int32))
    for wrong in (-1, 32):
        with pytest.raises(InputError, match="from 0 to 31"):
            tokenizer.decode(np.full((1, 16), wrong, np.int32))
