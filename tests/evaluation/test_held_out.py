"""Held-out loss: the same numbers as summing over every target by hand."""

import numpy as np
import pytest

from ringworld.core.errors import InputError
from ringworld.data.batch import PackedBatch, PackedRows
from ringworld.evaluation.held_out import HeldOutConfig, HeldOutTask
from tests.evaluation.fake_subject import FakeSubject
from tests.inference.tiny_world import TOKENIZER, VOCABULARY


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
    arrays = (
        np.array(changes.get(name, values), np.float32 if "weights" in name else np.int32)
        for name, values in fields.items()
    )
    return PackedRows(batch=PackedBatch(*arrays), lengths=[[4, 3]])


def measured(edges: tuple[int, ...], **batches: list[PackedRows]) -> dict:
    """Return value and count of each metric and cell, by its kind or its first position."""
    task = HeldOutTask(HeldOutConfig(position_edges=edges), batches, context_tokens=8, too_long={"video": 3})
    items = list(task.items())
    outcomes = task.score(FakeSubject(TOKENIZER, VOCABULARY).subject, items)
    results = list(task.aggregate({item.key: outcome for item, outcome in zip(items, outcomes)}))
    assert all(one.cell["context_tokens"] == 8 for one in results)
    return {
        (one.metric, one.cell.get("kind", one.cell.get("start"))): (one.value, one.count) for one in results
    }


def test_losses_are_means_over_examples_by_modality_and_position():
    assert measured((0, 1, 2, 100, 200), text=[batch()]) == {
        ("text_loss", None): (pytest.approx((0.5 * 3 + 0.5 * 4 + 6) / 2), 3),
        ("vision_loss", None): (107.0, 1),
        ("text_loss", "text"): (pytest.approx((0.5 * 3 + 0.5 * 4 + 6) / 2), 3),
        ("vision_loss", "text"): (107.0, 1),
        ("text_loss", 0): (6.0, 1),
        ("text_loss", 1): (3.0, 1),
        ("vision_loss", 1): (107.0, 1),
        ("text_loss", 2): (4.0, 1),
        ("too_long", "video"): (3.0, 3),
    }


def test_kinds_add_up_and_a_modality_that_is_missing_has_no_loss():
    without_vision = batch(vision_weights=[[0] * 8])
    later = batch(vision_weights=[[0] * 8], targets=[[2, 3, 4, 0, 9, 107, 0, 0]])
    made = measured((0, 4), text=[without_vision, later], caption_image=[batch()], video=[])
    assert made["text_loss", "text"] == (pytest.approx((3.5 + 6 + 3.5 + 9) / 4), 6)
    assert made["text_loss", "caption_image"] == (pytest.approx((3.5 + 6) / 2), 3)
    assert made["vision_loss", "caption_image"] == (107, 1)
    assert not {("vision_loss", "text"), ("text_loss", "video"), ("vision_loss", "video")} & made.keys()
    assert made["text_loss", None] == (pytest.approx((3.5 + 6 + 3.5 + 9 + 3.5 + 6) / 6), 9)
    assert made["vision_loss", None] == (107, 1)


def test_a_loss_that_is_no_number_is_reported(monkeypatch):
    lost = np.full((1, 8), np.nan, np.float32)
    monkeypatch.setattr(FakeSubject, "score", lambda self, tokens, targets, **where: lost)
    task = HeldOutTask(HeldOutConfig(), {"text": [batch()]}, context_tokens=8, too_long={})
    (item,) = task.items()
    (outcome,) = task.score(FakeSubject(TOKENIZER, VOCABULARY).subject, [item])
    (result,) = task.aggregate({item.key: outcome})
    assert result.value is None and result.reason


@pytest.mark.parametrize("edges", [(), (0,), (1, 4), (0, 4, 4), (0, 8, 4)])
def test_edges_that_do_not_rise_from_zero_are_refused(edges):
    with pytest.raises(InputError) as refused:
        HeldOutConfig(position_edges=edges)
    assert refused.value.field == "held_out.position_edges"


def test_no_examples_are_refused():
    with pytest.raises(InputError) as refused:
        HeldOutConfig(examples_per_kind=0)
    assert refused.value.field == "held_out.examples_per_kind"
