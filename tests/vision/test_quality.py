import numpy as np
import pytest

from ringworld.vision.quality import codebook_perplexity, codebook_usage, psnr


def test_psnr_of_each_frame():
    frames = np.zeros((3, 2, 2, 3), np.uint8)
    others = frames.copy()
    others[1], others[2] = 255, 1
    np.testing.assert_allclose(psnr(frames, others), [np.inf, 0, 48.1308], atol=1e-4)


def test_use_of_the_codebook():
    codes = np.array([[0, 0, 1, 1], [2, 2, 3, 3]], np.int32)
    assert codebook_usage(codes, codebook_size=16) == 0.25
    assert codebook_perplexity(codes) == pytest.approx(4)
    assert codebook_perplexity(np.zeros((2, 4), np.int32)) == 1
