from math import inf, nan
from typing import Any

import pytest

from ringworld.core.errors import InputError
from ringworld.data.config import KINDS, MixtureConfig, PrepareConfig


@pytest.mark.parametrize("weight", [nan, inf, -1.0])
@pytest.mark.parametrize("kind", [KINDS[0], KINDS[-1]])
def test_a_mixture_has_weights_that_can_be_drawn_by(kind: str, weight: float):
    with pytest.raises(InputError) as refused:
        MixtureConfig(**dict[str, Any]({kind: weight}))
    assert refused.value.field == f"mixture.{kind}"


def test_a_mixture_of_nothing_is_refused():
    with pytest.raises(InputError) as refused:
        MixtureConfig(**dict[str, Any].fromkeys(KINDS, 0.0))
    assert refused.value.field == "mixture"


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
        {"max_text_bytes": 2**63},
        {"seed": 2**63},
    ],
    ids=str,
)
def test_a_preparation_that_gives_no_example_is_refused(wrong: dict[str, Any]):
    with pytest.raises(InputError) as refused:
        PrepareConfig(**wrong)
    assert refused.value.field == next(iter(wrong))
