"""Scores against the training-time forward pass."""

import numpy as np
import pytest

from tests.inference.tiny_world import FORWARD_TOKENS, VOCABULARY, full_scores, make_world


def nats(scores: np.ndarray, target: int) -> float:
    """Return the loss of one target among the ids of its modality, from the scores of all ids."""
    text = target < VOCABULARY.text_size
    own = scores[: VOCABULARY.text_size] if text else scores[VOCABULARY.text_size :]
    index = target if text else target - VOCABULARY.text_size
    return np.log(np.exp(own - own.max()).sum()) + own.max() - own[index]


@pytest.mark.parametrize("ring", [1, 2])
def test_scores_are_those_of_each_modality_and_packing_changes_none(ring):
    made = make_world(ring=ring)
    codes = np.arange(8).reshape(2, 4) % VOCABULARY.codes
    texts = [made.world.prompts.text(text) for text in ("A red circle moves to the right.", "to")]
    sequences = [texts[0], np.append(texts[1], VOCABULARY.encode_frames(codes)).astype(np.int32)]
    tokens, targets, order, first = np.zeros((4, 1, FORWARD_TOKENS), np.int32)
    order[:] = -1
    start = 0
    for sequence in sequences:
        stop = start + len(sequence)
        tokens[0, start:stop], targets[0, start : stop - 1] = sequence, sequence[1:]
        order[0, start:stop], first[0, start:stop] = np.arange(start, stop), start
        start = stop
    scored = made.world.scorer.score(
        tokens, targets, order=order, first=first, lengths=[list(map(len, sequences))]
    )[0]
    start = 0
    for sequence, scores in zip(sequences, full_scores(made, sequences)):
        for i, target in enumerate(sequence[1:]):
            np.testing.assert_allclose(scored[start + i], nats(scores[i], target), rtol=1e-4, atol=1e-4)
        start += len(sequence)


def test_each_token_of_a_text_has_its_loss():
    made = make_world(ring=1)
    ids = made.world.prompts.text("A red circle moves to the right.")
    losses = made.world.scorer.losses(ids)
    (scores,) = full_scores(made, [ids])
    np.testing.assert_allclose(losses, [nats(*one) for one in zip(scores, ids[1:])], rtol=1e-4, atol=1e-4)
