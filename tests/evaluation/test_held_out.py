"""Held-out loss: the same numbers as summing over every target by hand."""

import numpy as np
import pytest

from ringworld.core.errors import InputError
from ringworld.data.batch import PackedBatch
from ringworld.data.config import Kind
from ringworld.data.loader import KindOnce
from ringworld.evaluation.config import HeldOutConfig
from ringworld.evaluation.held_out import held_out_loss


class Scorer:
    """Gives every target a loss that is its own number."""

    def score(self, tokens, targets, *, order, first):
        return targets.astype(np.float32)


def batch(**changes):
    """Two examples of 4 and 3 tokens and one of padding; the second ends with a vision target."""
    fields = {
        "tokens": [[1, 2, 3, 4, 5, 6, 107, 0]],
        "targets": [[2, 3, 4, 0, 6, 107, 0, 0]],
        "order": [[0, 1, 2, 3, 4, 5, 6, -1]],
        "first": [[0, 0, 0, 0, 4, 4, 4, 0]],
        "text_weights": [[0, 0.5, 0.5, 0, 1, 0, 0, 0]],
        "vision_weights": [[0, 0, 0, 0, 0, 1, 0, 0]],
    }
    return PackedBatch(
        *(
            np.array(changes.get(name, values), np.float32 if "weights" in name else np.int32)
            for name, values in fields.items()
        )
    )


def kind(name: Kind, *batches: PackedBatch) -> KindOnce:
    return KindOnce(kind=name, batches=iter(batches), left_out=0)


def test_losses_are_means_over_examples_by_modality_and_position():
    loss = held_out_loss(
        Scorer(), [kind("text", batch())], context_tokens=8, position_edges=(0, 1, 2, 100, 200)
    )
    assert loss.context_tokens == 8
    assert loss.text_loss == pytest.approx((0.5 * 3 + 0.5 * 4 + 6) / 2)
    assert loss.vision_loss == 107
    assert (loss.text_targets, loss.vision_targets) == (3, 1)
    assert [(b.start, b.stop, b.text_loss, b.vision_loss) for b in loss.by_position] == [
        (0, 1, 6.0, None),
        (1, 2, 3.0, 107.0),
        (2, 8, 4.0, None),
    ]
    assert [(b.text_targets, b.vision_targets) for b in loss.by_position] == [(1, 0), (1, 1), (1, 0)]


def test_kinds_add_up_and_a_modality_that_is_missing_has_no_loss():
    without_vision = batch(vision_weights=[[0] * 8])
    later = batch(vision_weights=[[0] * 8], targets=[[2, 3, 4, 0, 9, 107, 0, 0]])
    kinds = [kind("text", without_vision, later), kind("caption_image", batch()), kind("video")]
    loss = held_out_loss(Scorer(), kinds, context_tokens=8, position_edges=(0, 4))
    assert [(k.kind, k.text_targets, k.vision_targets) for k in loss.by_kind] == [
        ("text", 6, 0),
        ("caption_image", 3, 1),
        ("video", 0, 0),
    ]
    of_text, of_image, of_video = loss.by_kind
    assert of_text.text_loss == pytest.approx((3.5 + 6 + 3.5 + 9) / 4)
    assert of_image.text_loss == pytest.approx((3.5 + 6) / 2)
    assert (of_text.vision_loss, of_image.vision_loss, of_video.text_loss) == (None, 107, None)
    assert loss.text_loss == pytest.approx((3.5 + 6 + 3.5 + 9 + 3.5 + 6) / 6)
    assert (loss.text_targets, loss.vision_targets) == (9, 1)


@pytest.mark.parametrize("edges", [(), (0,), (1, 4), (0, 4, 4), (0, 8, 4)])
def test_edges_that_do_not_rise_from_zero_are_refused(edges):
    with pytest.raises(InputError, match="position_edges"):
        HeldOutConfig(position_edges=edges)


def test_no_examples_are_refused():
    with pytest.raises(InputError, match="examples_per_kind"):
        HeldOutConfig(examples_per_kind=0)
