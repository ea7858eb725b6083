"""Generation against the training-time forward pass, on a ring of one and of two."""

from functools import partial

import jax
import jaxtyping
import numpy as np
import pytest

from ringworld.core.errors import InputError
from ringworld.inference.config import GREEDY, GenerationLimits, SamplingConfig
from ringworld.inference.generator import Generator
from ringworld.text.vocabulary import Vocabulary
from tests.inference.tiny_world import FORWARD, TOKENIZER, VOCABULARY, full_scores, make_world

CAPTIONS = ["a red circle", "a circle that moves to the right and to the right"]


def generator(made, **changes) -> Generator:
    parts = {
        "forward": FORWARD,
        "vocabulary": VOCABULARY,
        "end": TOKENIZER.eos,
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
    written = made.world.generator.generate(prompts, max_new_tokens=10)
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


def test_other_prompts_of_the_same_shape_compile_nothing():
    made = make_world(ring=1)
    draw_codes(made, CAPTIONS, sampling=GREEDY)
    compiled = []

    def count(event: str, duration_secs: float, **kwargs: str | int) -> None:
        compiled.extend([event] if "backend_compile" in event else [])

    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        warm = SamplingConfig(temperature=0.7, top_k=3, seed=11)
        draw_codes(made, ["to", "red"], frames=3, sampling=warm)
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert not compiled


def test_text_ends_at_the_end_of_text():
    made = make_world(ring=1)
    prompts = [made.world.prompts.text("A red circle moves"), made.world.prompts.text("A circle")]
    ids, _ = made.world.generator.generate(prompts, max_new_tokens=10)
    end = int(ids[4])
    shorter, _ = generator(made, end=end).generate(prompts, max_new_tokens=10)
    assert shorter.tolist() == ids[: ids.tolist().index(end)].tolist()


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
    prompts = [made.world.prompts.text("A red")]
    five, again = (made.world.generator.generate(prompts, max_new_tokens=n) for n in (5, np.int64(5)))
    assert five[0].tolist() == again[0].tolist()
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
