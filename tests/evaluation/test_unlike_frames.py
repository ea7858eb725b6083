"""Frames that a frame tokenizer may remember are distinguished from those that it must have understood."""

import numpy as np
import pytest

from ringworld.evaluation.unlike_frames import judge_unlike, nearest_psnr
from tests.inference.tiny_world import FRAME_TOKENIZER, make_world

SIDE = FRAME_TOKENIZER.resolution


def frames(*levels: int) -> np.ndarray:
    return np.stack([np.full((SIDE, SIDE, 3), level, np.uint8) for level in levels])


def test_only_frames_far_from_all_that_was_trained_on_count():
    tokenizer = make_world(ring=1).frame_tokenizer
    judged = judge_unlike(tokenizer, frames(11, 200, 90), trained_on=frames(10, 100, 202))
    assert judged.frames == 1
    # Of 90 the nearest is 100, and what comes back is not that.
    assert judged.nearest_db == pytest.approx(20 * np.log10(255 / 10), abs=1e-3)
    made = tokenizer.decode(tokenizer.encode(frames(90))).astype(float)
    assert judged.psnr_db == pytest.approx(10 * np.log10(255**2 / np.square(made - 90).mean()), abs=1e-3)


def test_where_all_that_is_held_out_was_seen_there_is_no_figure():
    judged = judge_unlike(make_world(ring=1).frame_tokenizer, frames(11), trained_on=frames(10))
    assert (judged.frames, judged.psnr_db, judged.nearest_db) == (0, None, None)


@pytest.mark.parametrize("side", [20, 32, 100])
def test_the_nearest_is_found_among_many_at_any_size(side: int):
    draws = np.random.default_rng(0)
    many = draws.integers(0, 256, (600, 1, 1, 3)).repeat(side, axis=1).repeat(side, axis=2).astype(np.uint8)
    error = (many[:, None, 0, 0].astype(float) - many[None, ::7, 0, 0]) / 255
    expected = np.minimum(-10 * np.log10(np.maximum(np.square(error).mean(-1).min(1), 1e-10)), 40)
    assert np.minimum(nearest_psnr(many, many[::7]), 40) == pytest.approx(expected, abs=0.1)
