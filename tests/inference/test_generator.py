"""Generation against the training-time forward pass, on a ring of one and of two."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import jax
import jaxtyping
import numpy as np
import pytest

from ringworld.core.errors import InputError
from ringworld.inference import reading
from ringworld.inference.config import GREEDY, GenerationLimits, SamplingConfig
from ringworld.inference.generator import Generator
from ringworld.model.decode import read_chunk
from ringworld.text.vocabulary import Vocabulary
from tests.inference.tiny_world import FORWARD, TOKENIZER, VOCABULARY, full_scores, make_world

CAPTIONS = ["a red circle", "a circle that moves to the right and to the right"]


def generator(made, **changes) -> Generator:
    parts = {
        "forward": FORWARD,
        "vocabulary": VOCABULARY,
        "ends": [TOKENIZER.eos],
        "mesh": made.mesh,
        "limits": GenerationLimits(max_context_tokens=512, max_sequences=8),
    }
    return Generator(made.weights, **{**parts, **changes})


def draw_codes(made, captions, *, sampling, frames=2) -> np.ndarray:
    prompts = made.world.prompts
    drawn = made.world.generator.generate_frames(
        [prompts.drawing(caption, frames=frames) for caption in captions],
        frames=frames,
        sampling=sampling,
        unconditional=prompts.unconditional(),
    )
    return np.stack([VOCABULARY.decode_frames(ids) for ids in drawn])


@pytest.mark.parametrize("ring", [1, 2])
def test_greedy_text_is_the_argmax_of_the_full_forward_pass(ring):
    made = make_world(ring=ring)
    prompts = [made.world.prompts.text("A red circle moves"), made.world.prompts.text("to")]
    written = [each.tokens for each in made.world.generator.generate(prompts, max_new_tokens=10)]
    for prompt, ids, scores in zip(prompts, written, full_scores(made, [*map(np.append, prompts, written)])):
        likeliest = scores[len(prompt) - 1 :, : VOCABULARY.text_size].argmax(-1).tolist()
        assert ids.tolist() == likeliest[:-1]
        assert len(ids) == 10 or likeliest[-1] == TOKENIZER.eos


def test_text_continues_alike_on_any_ring():
    one, two = (
        make_world(ring=ring).world.complete(["A red", "A circle"], max_new_tokens=10, temperature=0.0)
        for ring in (1, 2)
    )
    assert one == two


@pytest.mark.parametrize(("ring", "scale"), [(1, 0.0), (1, 1.0), (1, 2.5), (2, 0.0), (2, 2.5)])
def test_frames_are_the_argmax_of_guided_scores(ring, scale):
    made = make_world(ring=ring)
    sampling = SamplingConfig(temperature=0.0, guidance_scale=scale)
    free = made.world.prompts.unconditional()
    for caption, drawn in zip(CAPTIONS, draw_codes(made, CAPTIONS, sampling=sampling)):
        assert drawn.shape == (2, VOCABULARY.codes_per_frame)
        given = made.world.prompts.drawing(caption, frames=2)
        ids = VOCABULARY.encode_frames(drawn)
        given_scores, free_scores = (
            scores[-len(ids) - 1 : -1]
            for scores in full_scores(made, [np.append(given, ids), np.append(free, ids)])
        )
        guided = free_scores + scale * (given_scores - free_scores)
        first, last = VOCABULARY.code_offset, VOCABULARY.code_offset + VOCABULARY.codes
        likeliest = first + guided[:, first:last].argmax(-1)
        inside = ids < VOCABULARY.eof
        assert ids[inside].tolist() == likeliest[inside].tolist()


def test_guidance_at_one_is_none():
    plain, nearly = (
        draw_codes(make_world(ring=1), CAPTIONS, sampling=SamplingConfig(seed=5, guidance_scale=scale))
        for scale in (1.0, float(np.nextafter(np.float32(1), np.float32(2))))
    )
    assert plain.tolist() == nearly.tolist()


@pytest.mark.parametrize("temperature", [1e-300, 1e-37, 1e38, 1e300])
def test_every_temperature_keeps_to_the_grammar(temperature):
    sampling = SamplingConfig(temperature=temperature, guidance_scale=1e300)
    assert draw_codes(make_world(ring=1), CAPTIONS, sampling=sampling).max() < VOCABULARY.codes


def test_the_seed_decides_and_the_batch_does_not():
    draw = partial(draw_codes, make_world(ring=1))
    sampling = SamplingConfig(seed=7)
    together = draw(CAPTIONS, sampling=sampling)
    assert draw(CAPTIONS, sampling=sampling).tolist() == together.tolist()
    assert draw(CAPTIONS[::-1], sampling=sampling)[::-1].tolist() == together.tolist()
    assert draw(CAPTIONS[1:], sampling=sampling)[0].tolist() == together[1].tolist()
    assert draw(CAPTIONS, sampling=SamplingConfig(seed=8)).tolist() != together.tolist()


def test_sequences_over_data_members_draw_as_one_device_does():
    sampling = SamplingConfig(seed=7, guidance_scale=2.5)
    one, four = (
        draw_codes(made, CAPTIONS, sampling=sampling)
        for made in (make_world(ring=1), make_world(ring=2, data=2))
    )
    assert one.tolist() == four.tolist()


@contextmanager
def programs_compiled() -> Iterator[list[str]]:
    compiled: list[str] = []

    def count(event: str, duration_secs: float, **kwargs: str | int) -> None:
        compiled.extend([event] if "backend_compile" in event else [])

    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        yield compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(count)


def test_other_prompts_of_the_same_shape_compile_nothing():
    made = make_world(ring=1)
    draw_codes(made, CAPTIONS, sampling=GREEDY)
    with programs_compiled() as compiled:
        warm = SamplingConfig(temperature=0.7, top_k=3, top_p=0.5, min_p=0.1, repetition_penalty=2.0, seed=11)
        draw_codes(made, ["to", "red"], frames=3, sampling=warm)
    assert not compiled


def test_prompts_in_chunks_compile_few_programs_and_compute_little_padding(monkeypatch):
    limits = GenerationLimits(max_context_tokens=600, max_sequences=8, chunk_tokens=128)
    made = generator(make_world(ring=2), limits=limits)
    computed: list[int] = []

    def counted(weights, cache, tokens, **rest):
        computed.append(tokens.shape[1])
        return read_chunk(weights, cache, tokens, **rest)

    monkeypatch.setattr(reading, "read_chunk", counted)
    ids = np.arange(600, dtype=np.int32) % VOCABULARY.text_size

    def read(lengths: Sequence[int]) -> None:
        for length in lengths:
            computed.clear()
            made.generate([ids[:length]], max_new_tokens=1)
            assert length <= sum(computed) < length + 33

    with programs_compiled() as all_sizes:
        read([128 * 3 + size for size in (32, 64, 128)])
    with programs_compiled() as others:
        read([390, 420, 447, 475, 501])
    assert all_sizes and not others


@pytest.mark.parametrize("others", [[], [-1], list(range(10_000, 10_020))])
def test_text_ends_at_any_of_the_ends(others):
    made = make_world(ring=1)
    prompts = [made.world.prompts.text("A red circle moves"), made.world.prompts.text("A circle")]
    whole, _ = made.world.generator.generate(prompts, max_new_tokens=10)
    ids = whole.tokens
    end = int(ids[4])
    shorter, _ = generator(made, ends=[*others, end]).generate(prompts, max_new_tokens=10)
    assert shorter.tokens.tolist() == ids[: ids.tolist().index(end)].tolist()
    also, _ = made.world.generator.generate(prompts, max_new_tokens=10, more_ends=[*others, end])
    assert (also.tokens.tolist(), also.finish) == (shorter.tokens.tolist(), "stop")
    assert len(shorter.logprobs) == len(shorter.tokens)
    assert (whole.finish, shorter.finish) == ("length", "stop")


def test_what_is_watched_ends_where_it_is_told_and_the_rest_is_as_it_was():
    made = make_world(ring=2)
    prompts = [made.world.prompts.text(text) for text in ("A red circle moves", "A circle", "to")]
    plain = made.world.generator.generate(prompts, max_new_tokens=20)
    seen: dict[int, list[int]] = {}

    def watch(index: int, token: int) -> bool:
        seen.setdefault(index, []).append(token)
        return index == 1 and len(seen[index]) == 11

    watched = made.world.generator.generate(prompts, max_new_tokens=20, watch=watch)
    assert [each.tokens.tolist() for each in watched] == [
        each.tokens.tolist()[: 11 if i == 1 else 20] for i, each in enumerate(plain)
    ]
    assert [each.finish for each in watched] == ["length", "stop", "length"]
    assert seen[1] == watched[1].tokens.tolist()


def test_samples_differ_the_first_is_that_of_one_and_none_depends_on_the_batch():
    made = make_world(ring=2)
    prompts = [made.world.prompts.text("A red"), made.world.prompts.text("A circle moves to")]
    draw = partial(made.world.generator.generate, max_new_tokens=12, sampling=SamplingConfig(seed=3))
    one, three = draw(prompts), draw(prompts, samples=3)
    ids = [each.tokens.tolist() for each in three]
    assert [ids[0], ids[3]] == [each.tokens.tolist() for each in one]
    assert len({tuple(each) for each in ids}) == 6
    assert [each.tokens.tolist() for each in draw(prompts[1:], samples=2)] == ids[3:5]


def test_logprobs_are_those_of_the_model_whatever_changes_the_draws():
    made = make_world(ring=1)
    prompts = [made.world.prompts.text("A red circle moves"), made.world.prompts.text("to")]
    sampling = SamplingConfig(temperature=0.7, top_k=20, top_p=0.9, min_p=0.01, repetition_penalty=1.3)
    written = made.world.generator.generate(prompts, max_new_tokens=10, sampling=sampling)
    sequences = [np.append(prompt, each.tokens) for prompt, each in zip(prompts, written)]
    for prompt, each, scores in zip(prompts, written, full_scores(made, sequences)):
        text = scores[len(prompt) - 1 : -1, : VOCABULARY.text_size].astype(np.float64)
        expected = text - np.log(np.exp(text).sum(axis=1, keepdims=True))
        picked = expected[np.arange(len(each.tokens)), each.tokens]
        # Scores of size up to 20 in float32, through some 60 roundings of 6e-8 of them.
        np.testing.assert_allclose(each.logprobs, picked, rtol=0, atol=1e-4)


def test_a_penalty_against_repetition_forbids_what_stands_in_prompt_or_output():
    made = make_world(ring=2)
    prompt = made.world.prompts.text("A red circle moves to the right")
    sampling = SamplingConfig(temperature=0.0, repetition_penalty=1e9)
    (written,) = made.world.generator.generate([prompt], max_new_tokens=30, sampling=sampling)
    assert len(set(written.tokens.tolist()) | set(prompt.tolist())) == 30 + len(set(prompt.tolist()))


def test_no_prompts_give_nothing():
    assert make_world(ring=1).world.generator.generate([], max_new_tokens=5) == []


def test_what_does_not_fit_is_refused():
    made = make_world(ring=1)
    prompt = made.world.prompts.text("A")
    for prompts, new, field in (
        ([np.zeros(600, np.int32)], 5, "prompt"),
        ([prompt], 0, "max_new_tokens"),
        ([prompt, np.zeros(0, np.int32)], 5, "prompt"),
    ):
        with pytest.raises(InputError) as refused:
            made.world.generator.generate(prompts, max_new_tokens=new)
        assert refused.value.field == field
    for frames, field in ((100, "prompt"), (0, "frames")):
        with pytest.raises(InputError) as refused:
            draw_codes(made, ["a"], frames=frames, sampling=GREEDY)
        assert refused.value.field == field


@pytest.mark.parametrize("count", [1.5, 2.0, "3", True, None], ids=repr)
def test_what_is_no_count_is_refused(count, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    made = make_world(ring=1)
    with pytest.raises(InputError) as refused:
        made.world.generator.generate([made.world.prompts.text("A")], max_new_tokens=count)
    assert refused.value.field == "max_new_tokens"
    with pytest.raises(InputError) as refused:
        made.world.draw("a", frames=count)
    assert refused.value.field == "frames"


def test_counts_of_numpy_are_counts():
    made = make_world(ring=1)
    prompts = [made.world.prompts.text("A red"), made.world.prompts.text("A circle")]
    ten, again = (made.world.generator.generate(prompts, max_new_tokens=n) for n in (10, np.int64(10)))
    assert ten[0].tokens.tolist() == again[0].tokens.tolist()
    assert len(made.world.draw("a", frames=np.int32(2))) == 2


@pytest.mark.parametrize("frames", [10**12, 10**400])
def test_more_frames_than_can_be_counted_are_refused(frames):
    with pytest.raises(InputError) as refused:
        draw_codes(make_world(ring=1), ["a"], frames=frames, sampling=GREEDY)
    assert refused.value.field == "frames"


def test_the_vocabulary_of_another_model_is_refused():
    for other in ({"codes": 7}, {"text_size": VOCABULARY.text_size + 1}):
        sizes = {"text_size": VOCABULARY.text_size, "codes": 6, "codes_per_frame": 4} | other
        with pytest.raises(InputError) as refused:
            generator(make_world(ring=1), vocabulary=Vocabulary(**sizes))
        assert refused.value.field == "vocabulary"
