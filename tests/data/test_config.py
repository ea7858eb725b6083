from math import inf, nan
from typing import Any

import pytest

from ringworld.core.errors import InputError
from ringworld.data.config import KINDS, MixtureConfig, PrepareConfig, ToyWorldConfig


@pytest.mark.parametrize("weight", [nan, inf, -1.0])
@pytest.mark.parametrize("kind", [KINDS[0], KINDS[-1]])
def test_a_mixture_has_weights_that_can_be_drawn_by(kind: str, weight: float):
    with pytest.raises(InputError, match=f"mixture weight of {kind}: got {weight}"):
        MixtureConfig(**{kind: weight})


def test_a_mixture_of_nothing_is_refused():
    with pytest.raises(InputError, match="no weight above 0"):
        MixtureConfig(**dict.fromkeys(KINDS, 0.0))


@pytest.mark.parametrize(
    "wrong",
    [
        {"frames_per_second": inf},
        {"frames_per_second": nan},
        {"max_frames": 0},
        {"document_tokens": 15},
        {"held_out_fraction": 1.0},
        {"drop_caption_fraction": nan},
        {"images_per_video": -1},
    ],
    ids=str,
)
def test_a_preparation_that_gives_no_example_is_refused(wrong: dict[str, Any]):
    with pytest.raises(InputError, match=next(iter(wrong))):
        PrepareConfig(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"clip_seconds": -1.0},
        {"speed_pixels": nan},
        {"cut_fraction": 1.5},
        {"frames_per_second": 0},
        {"shortest_words": 5000},
    ],
    ids=str,
)
def test_a_toy_world_that_cannot_be_drawn_is_refused(wrong: dict[str, Any]):
    with pytest.raises(InputError, match=next(iter(wrong))):
        ToyWorldConfig(**wrong)
