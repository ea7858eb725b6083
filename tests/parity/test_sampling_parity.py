"""The distributions that are drawn from, against the logits processors of transformers."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ringworld.inference.sampling import Sampling, row_keys, sample
from tests.inference.warpers import warped

VOCAB, ROWS = 48, 8192


@pytest.mark.parametrize("case", range(12))
def test_draws_follow_the_distribution_of_transformers(case):
    draws = np.random.default_rng(case)
    logits = (3 * draws.normal(size=VOCAB)).astype(np.float32)
    prompt = draws.integers(0, VOCAB, 10)
    changes = {
        "repetition_penalty": float(draws.uniform(0.6, 1.8)),
        "temperature": float(draws.uniform(0.4, 2.0)),
        "top_k": int(draws.integers(0, 30)),
        "top_p": float(draws.uniform(0.3, 1.0)),
        "min_p": float(draws.uniform(0.0, 0.2)),
    }
    expected = of_transformers(logits, prompt, **changes)
    seen = np.isin(np.arange(VOCAB), prompt)
    # The oracle of the other tests is the same: float32 and float64 differ by some roundings of 6e-8.
    np.testing.assert_allclose(warped(logits, seen=seen, **changes), expected, rtol=1e-4, atol=1e-7)
    top_k = jnp.full(ROWS, changes.pop("top_k"), jnp.int32)
    drawn = sample(
        jnp.tile(jnp.asarray(logits)[None], (ROWS, 1)),
        legal=jnp.ones(VOCAB, bool),
        seen=jnp.tile(seen[None], (ROWS, 1)),
        keys=row_keys(jnp.zeros(ROWS, jnp.uint32), jnp.arange(ROWS, dtype=jnp.uint32)),
        index=jnp.zeros(ROWS, jnp.int32),
        sampling=Sampling(
            top_k=top_k, **{name: jnp.full(ROWS, value, jnp.float32) for name, value in changes.items()}
        ),
    )
    shares = np.bincount(drawn, minlength=VOCAB) / ROWS
    assert set(np.flatnonzero(shares)) <= set(np.flatnonzero(expected))
    # Five standard deviations of a share.
    assert (np.abs(shares - expected) <= 5 * np.sqrt(expected * (1 - expected) / ROWS) + 1e-7).all()


def of_transformers(logits, prompt, *, repetition_penalty, temperature, top_k, top_p, min_p):
    """Apply what `generate` builds, in its order."""
    processors = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(repetition_penalty)])
    processors.append(TemperatureLogitsWarper(temperature))
    if top_k:
        processors.append(TopKLogitsWarper(top_k))
    processors.extend([TopPLogitsWarper(top_p), MinPLogitsWarper(min_p)])
    scores = processors(torch.tensor(prompt[None]), torch.tensor(logits[None]))
    return torch.softmax(scores, dim=-1)[0].numpy()
