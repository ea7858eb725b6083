from math import inf, nan
from typing import Any

import pytest

from ringworld.core.errors import InputError
from ringworld.data.config import ClipConfig, MixtureConfig, PackingConfig, PrepareConfig


@pytest.mark.parametrize("share", [nan, inf, -1.0])
def test_a_mixture_has_shares_that_can_be_drawn_by(share: float):
    with pytest.raises(InputError) as refused:
        MixtureConfig(ratios={"text": 1.0, "video": share})
    assert refused.value.field == "mixture.video"


@pytest.mark.parametrize(
    "ratios",
    [
        *({"text": 0.0}, {"": 1.0}, {"a/b/c": 1.0}, {"books/": 1.0}, {"/text": 1.0}),
        *({"text,": 1.0}, {"text,chat": 1.0, "text": 2.0}),
    ],
)
def test_a_mixture_of_nothing_or_of_no_name_is_refused(ratios: dict[str, float]):
    with pytest.raises(InputError) as refused:
        MixtureConfig(ratios=ratios)
    assert refused.value.field == "mixture"


def test_the_most_special_name_of_a_mixture_counts():
    mixture = MixtureConfig(ratios={"books/text": 1.0, "books/*": 2.0, "text": 3.0, "*": 4.0, "chat": 0.0})
    named = {
        ("books", "text"): "books/text",
        ("books", "text_qa"): "books/*",
        ("web", "text"): "text",
        ("web", "video"): "*",
        ("web", "chat"): None,
    }
    assert {key: mixture.name_of(*key) for key in named} == named
    assert MixtureConfig().name_of("web", "chat") == "chat"
    together = MixtureConfig(ratios={"image_qa,web/chat": 1.0, "*": 1.0})
    assert together.name_of("a", "image_qa") == together.name_of("web", "chat") == "image_qa,web/chat"
    assert together.name_of("a", "chat") == "*"
    assert "chat" in MixtureConfig(ratios={"text,web/chat": 1.0})
    assert "text" in mixture and "chat" in mixture and "chat" not in MixtureConfig(ratios={"text": 1.0})


def test_what_a_stage_leaves_open_of_its_clips_is_as_they_were_prepared():
    prepared = PrepareConfig(max_frames=8, frames_per_second=4.0)
    assert ClipConfig().of(prepared) == ClipConfig(max_frames=8, frames_per_second=4.0)
    fewer = ClipConfig(max_frames=3, frames_per_second=9.0)
    assert fewer.of(prepared) == ClipConfig(max_frames=3, frames_per_second=4.0)
    for wrong in ({"max_frames": -1}, {"frames_per_second": inf}):
        with pytest.raises(InputError) as refused:
            ClipConfig(**dict[str, Any](wrong))
        assert refused.value.field == f"clips.{next(iter(wrong))}"


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


def test_a_mixture_of_no_length_is_refused():
    assert MixtureConfig(shortest_tokens=5, longest_tokens=5).longest_tokens == 5
    with pytest.raises(InputError) as refused:
        MixtureConfig(shortest_tokens=5, longest_tokens=4)
    assert refused.value.field == "mixture.longest_tokens"
    with pytest.raises(InputError) as refused:
        MixtureConfig(shortest_seconds=5.5, longest_seconds=5.0)
    assert refused.value.field == "mixture.longest_seconds"


def test_a_packing_into_no_row_is_refused():
    with pytest.raises(InputError) as refused:
        PackingConfig(open_sequences=0)
    assert refused.value.field == "packing.open_sequences"
