"""A sequence that grows in a cache, against reading all of it again."""

import numpy as np
import pytest

from ringworld.core.errors import InputError
from ringworld.inference import reading
from ringworld.inference.config import GREEDY, GenerationLimits, SamplingConfig
from ringworld.inference.generate import Decoding
from ringworld.inference.generator import Generator
from ringworld.inference.reading import chunk_sizes
from tests.inference.tiny_world import FORWARD, TOKENIZER, VOCABULARY, full_scores, make_world

TEXT = np.random.default_rng(0).integers(5, VOCABULARY.text_size, 120).astype(np.int32)
WARM = SamplingConfig(seed=5, temperature=0.8, top_p=0.9, repetition_penalty=1.1)


def generator(ring: int, **limits: int) -> Generator:
    made = make_world(ring=ring)
    sizes = {"max_context_tokens": 512, "max_sequences": 8, "chunk_tokens": 64, **limits}
    return Generator(
        made.weights,
        forward=FORWARD,
        vocabulary=VOCABULARY,
        ends=[TOKENIZER.eos],
        mesh=made.mesh,
        limits=GenerationLimits(**sizes),
    )


def test_a_prompt_in_chunks_is_continued_as_the_argmax_of_the_full_forward_pass():
    prompts = [TEXT[:100], TEXT[20:23], TEXT[30:95]]
    written = [each.tokens for each in generator(2).generate(prompts, max_new_tokens=6)]
    scores = full_scores(make_world(ring=2), [*map(np.append, prompts, written)])
    for prompt, ids, after in zip(prompts, written, scores):
        likeliest = after[len(prompt) - 1 :, : VOCABULARY.text_size].argmax(-1).tolist()
        assert ids.tolist() == likeliest[: len(ids)]


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "drawn"])
def test_each_turn_reads_what_is_new_and_writes_what_reading_everything_would(sampling):
    made = generator(2)
    session, held = made.session(), np.zeros(0, np.int32)
    for begins, ends in ((0, 71), (71, 74), (74, 105)):
        asked = np.append(held, TEXT[begins:ends])
        known = session.held
        read = list(session.read(asked))
        assert read[-1] == len(asked)
        # The last token that was written is read now, and at most one block had been decoded ahead.
        assert known >= len(held) - 1
        assert len(read) == len(chunk_sizes(len(asked) - known, most=64, members=2))
        ids = list(session.write(max_new_tokens=9, sampling=sampling))
        (expected,) = made.generate([asked], max_new_tokens=9, sampling=sampling)
        assert ids == expected.tokens.tolist()
        held = np.append(asked, ids).astype(np.int32)


def test_a_turn_that_was_stopped_or_changed_leaves_no_trace():
    made = generator(2)
    session = made.session()
    reading = session.read(TEXT[:110])
    assert next(reading) == 64
    reading.close()
    assert session.held == 64
    list(session.read(TEXT[:90]))
    writing = session.write(max_new_tokens=20, sampling=GREEDY)
    for _ in range(2):
        next(writing)
    writing.close()
    other = np.append(TEXT[:80], TEXT[100:110])
    assert list(session.read(other)) == [90]
    (expected,) = made.generate([other], max_new_tokens=5)
    assert list(session.write(max_new_tokens=5, sampling=GREEDY)) == expected.tokens.tolist()
    list(session.read(other))
    assert list(session.write(max_new_tokens=5, sampling=GREEDY)) == expected.tokens.tolist()


@pytest.mark.parametrize("during", ["reading", "writing"])
def test_what_a_ctrl_c_breaks_off_leaves_a_session_that_answers_as_before(monkeypatch, during):
    made = generator(2)
    session = made.session()
    list(session.read(TEXT[:70]))
    (expected,) = made.generate([TEXT[:110]], max_new_tokens=6)

    def interrupted(*args, **rest):
        broken(*args, **rest)  # The cache is used up.
        raise KeyboardInterrupt

    owner, name = (reading, "read_chunk") if during == "reading" else (Decoding, "advance")
    broken = getattr(owner, name)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(owner, name, interrupted)
        list(session.read(TEXT[:110]))
        list(session.write(max_new_tokens=6, sampling=GREEDY))
    list(session.read(TEXT[:110]))
    assert list(session.write(max_new_tokens=6, sampling=GREEDY)) == expected.tokens.tolist()


def test_a_cache_grows_with_what_is_read():
    made = generator(2, max_context_tokens=6000, max_cache_tokens=64)
    session = made.session()
    long = np.tile(TEXT, 40)
    list(session.read(long[:30]))
    list(session.read(long[:4100]))
    fresh = made.session()
    list(fresh.read(long[:4100]))
    written, expected = (list(one.write(max_new_tokens=5, sampling=GREEDY)) for one in (session, fresh))
    assert written == expected


def test_what_does_not_fit_is_refused_and_the_session_goes_on():
    made = generator(1, max_context_tokens=64)
    session = made.session()
    list(session.read(TEXT[:60]))
    with pytest.raises(InputError) as refused:
        next(session.write(max_new_tokens=10, sampling=GREEDY))
    assert refused.value.field == "prompt"
    assert len(list(session.write(max_new_tokens=4, sampling=GREEDY))) == 4


def test_sizes_of_chunks_are_few_and_hold_all():
    assert chunk_sizes(2700, most=1024, members=1) == [1024, 1024, 512, 128, 32]
    assert chunk_sizes(1, most=1024, members=3) == [36]
    for least, allowed in ((32, {32, 64, 128, 256, 512}), (128, {128, 256, 512})):
        for tokens in range(1, 2000, 7):
            sizes = chunk_sizes(tokens, most=512, members=1, least=least)
            assert tokens <= sum(sizes) < tokens + max(least, sizes[-1] // 4 + 1)
            assert set(sizes) <= allowed
