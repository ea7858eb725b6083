"""The engine against the training-time forward pass, on a ring of one and of two."""

import dataclasses
import json
from functools import partial

import equinox as eqx
import jax
import numpy as np
import pytest

from ringworld.core.errors import InputError
from ringworld.inference.config import GREEDY, EngineConfig, SamplingConfig
from ringworld.inference.engine import Engine, Question
from ringworld.inference.generate import generate
from ringworld.model.arrange import arrange, place_rows
from ringworld.model.world_model import hidden, logits
from ringworld.text import chat
from ringworld.text.tokenizer import TextTokenizer
from tests.inference.tiny_world import CONFIG, TOKENIZER, VOCABULARY, Packed, make_world

CAPTIONS = ["a red circle", "a circle that moves to the right and to the right"]
FORWARD_TOKENS = 128


@partial(jax.jit, static_argnames="config")
def _forward(model, batch, *, config):
    tokens, order, first = batch
    states = hidden(model, tokens, order=order, first=first, config=config)
    return logits(states, model.head)


def forward(world, sequences) -> list[np.ndarray]:
    """Return the scores after every token, by the path that training takes, which has no cache."""
    attention = dataclasses.replace(CONFIG.attention, layout="contiguous")
    config = dataclasses.replace(CONFIG, attention=attention)
    shape = (len(sequences), FORWARD_TOKENS)
    tokens, order = np.zeros(shape, np.int32), np.full(shape, -1, np.int32)
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence)] = sequence
        order[row, : len(sequence)] = np.arange(len(sequence))
    with jax.set_mesh(world.mesh):
        packed = Packed(tokens, order, np.zeros(shape, np.int32))
        placements = place_rows(
            [[]] * len(sequences), seq=FORWARD_TOKENS, attention=attention, mesh=world.mesh
        )
        batch = arrange(packed, mesh=world.mesh, placements=placements)
        scores = np.asarray(_forward(world.model, batch, config=config))
    return [scores[row, : len(sequence)] for row, sequence in enumerate(sequences)]


def text_prompt(text):
    return np.array([TOKENIZER.bos, *TOKENIZER.encode(text)], np.int32)


@pytest.mark.parametrize("ring", [1, 2])
def test_greedy_text_is_the_argmax_of_the_full_forward_pass(ring):
    world = make_world(ring=ring)
    prompts = [text_prompt("A red circle moves"), text_prompt("to")]
    written = world.engine.continue_ids(prompts, max_new_tokens=10, sampling=GREEDY)
    for prompt, ids, scores in zip(prompts, written, forward(world, [*map(np.append, prompts, written)])):
        likeliest = scores[len(prompt) - 1 :, : VOCABULARY.text_size].argmax(-1).tolist()
        assert ids.tolist() == likeliest[:-1]
        assert len(ids) == 10 or likeliest[-1] == TOKENIZER.eos


def test_text_goes_on_alike_on_any_ring():
    one, two = (
        make_world(ring=ring).engine.complete(["A red", "A circle"], max_new_tokens=10, sampling=GREEDY)
        for ring in (1, 2)
    )
    assert one == two


@pytest.mark.parametrize(("ring", "scale"), [(1, 0.0), (1, 1.0), (1, 2.5), (2, 0.0), (2, 2.5)])
def test_frames_are_the_argmax_of_guided_scores(ring, scale):
    world = make_world(ring=ring)
    sampling = SamplingConfig(temperature=0.0, guidance_scale=scale)
    codes = world.engine.generate_codes(CAPTIONS, frames=2, sampling=sampling)
    assert codes.shape == (2, 2, VOCABULARY.codes_per_frame)
    free = world.engine.encode(chat.unconditional_prompt())
    for caption, drawn in zip(CAPTIONS, codes):
        given = world.engine.encode(chat.generation_prompt(caption, kind="video"))
        ids = VOCABULARY.encode_frames(drawn)
        given_scores, free_scores = (
            scores[-len(ids) - 1 : -1]
            for scores in forward(world, [np.append(given, ids), np.append(free, ids)])
        )
        guided = free_scores + scale * (given_scores - free_scores)
        first, last = VOCABULARY.code_offset, VOCABULARY.code_offset + VOCABULARY.codes
        likeliest = first + guided[:, first:last].argmax(-1)
        inside = ids < VOCABULARY.eof
        assert ids[inside].tolist() == likeliest[inside].tolist()


def test_guidance_at_one_is_none():
    engine = make_world(ring=1).engine
    plain, nearly = (
        engine.generate_codes(CAPTIONS, frames=2, sampling=SamplingConfig(seed=5, guidance_scale=scale))
        for scale in (1.0, float(np.nextafter(np.float32(1), np.float32(2))))
    )
    assert plain.tolist() == nearly.tolist()


def test_the_seed_decides_and_the_batch_does_not():
    draw = partial(make_world(ring=1).engine.generate_codes, frames=2)
    sampling = SamplingConfig(seed=7)
    together = draw(CAPTIONS, sampling=sampling)
    assert draw(CAPTIONS, sampling=sampling).tolist() == together.tolist()
    assert draw(CAPTIONS[::-1], sampling=sampling)[::-1].tolist() == together.tolist()
    assert draw(CAPTIONS[1:], sampling=sampling)[0].tolist() == together[1].tolist()
    assert draw(CAPTIONS, sampling=SamplingConfig(seed=8)).tolist() != together.tolist()


def test_rows_over_data_members_draw_as_one_device_does():
    spread = make_world(ring=2, data=2)
    sampling = SamplingConfig(seed=7, guidance_scale=2.5)
    one, four = (
        world.engine.generate_codes(CAPTIONS, frames=2, sampling=sampling)
        for world in (make_world(ring=1), spread)
    )
    assert one.tolist() == four.tolist()


def test_other_prompts_of_the_same_shape_compile_nothing():
    engine = make_world(ring=1).engine
    engine.generate_codes(CAPTIONS, frames=2, sampling=GREEDY)
    programs = generate._cache_size()  # pyright: ignore[reportAttributeAccessIssue]
    warm = SamplingConfig(temperature=0.7, top_k=3, seed=11)
    engine.generate_codes(["to", "red"], frames=3, sampling=warm)
    assert generate._cache_size() == programs  # pyright: ignore[reportAttributeAccessIssue]


def test_text_ends_at_the_end_of_text(tmp_path):
    world = make_world(ring=1)
    prompts = [text_prompt("A red circle moves"), text_prompt("A circle")]
    ids, _ = world.engine.continue_ids(prompts, max_new_tokens=10, sampling=GREEDY)
    end = int(ids[4])
    place = ids.tolist().index(end)
    TOKENIZER.save(tmp_path)
    spelled = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
    token = next(token for token, number in spelled.items() if number == end)
    engine = make_engine(world, tokenizer=TextTokenizer.load(tmp_path, eos=token))
    shorter, _ = engine.continue_ids(prompts, max_new_tokens=10, sampling=GREEDY)
    assert shorter.tolist() == ids[:place].tolist()


def test_pictures_and_answers_have_their_forms():
    engine = make_world(ring=1).engine
    images = engine.generate_frames(CAPTIONS, frames=1, sampling=SamplingConfig(guidance_scale=2.5))
    videos = engine.generate_frames(CAPTIONS, frames=2, sampling=GREEDY)
    assert (images.shape, images.dtype) == ((2, 1, 4, 4, 3), np.uint8)
    assert videos.shape == (2, 2, 4, 4, 3)
    answers = engine.answer(
        [
            Question(text="Which color?", frames=videos[0]),
            Question(text="Which color?", document="A red circle."),
            Question(text="Which color?"),
        ],
        max_new_tokens=5,
    )
    assert len(answers) == 3 and len(set(answers)) == 3
    assert engine.answer([], max_new_tokens=5) == []


def test_a_question_for_several_things_is_put_as_it_was_learnt():
    engine = make_world(ring=1).engine
    asked = Question(text="Which colors?", document="A red circle.", answers="several")
    learnt = chat.document_question_prompt("A red circle.", "Which colors?", answers="several")
    assert engine.question_tokens(asked) == len(engine.encode(learnt))
    assert engine.question_tokens(asked) < engine.question_tokens(dataclasses.replace(asked, answers="one"))


def test_weights_have_a_fingerprint_that_no_mesh_changes():
    one, two = make_world(ring=1), make_world(ring=2)
    assert one.engine.fingerprint == two.engine.fingerprint
    grown = eqx.tree_at(lambda model: model.norm, one.model, replace_fn=lambda norm: norm * 1.000001)
    assert make_engine(dataclasses.replace(one, model=grown)).fingerprint != one.engine.fingerprint


@pytest.mark.parametrize("ring", [1, 2])
def test_scores_are_those_of_each_modality_and_packing_changes_none(ring):
    world = make_world(ring=ring)
    codes = np.arange(8).reshape(2, 4) % VOCABULARY.codes
    texts = [text_prompt("A red circle moves to the right."), text_prompt("to")]
    sequences = [texts[0], np.append(texts[1], VOCABULARY.encode_frames(codes)).astype(np.int32)]
    tokens, targets, order, first = np.zeros((4, 1, FORWARD_TOKENS), np.int32)
    order[:] = -1
    start = 0
    for sequence in sequences:
        stop = start + len(sequence)
        tokens[0, start:stop], targets[0, start : stop - 1] = sequence, sequence[1:]
        order[0, start:stop], first[0, start:stop] = np.arange(start, stop), start
        start = stop
    nll = world.engine.score(tokens, targets, order=order, first=first)[0]
    start = 0
    for sequence, scores in zip(sequences, forward(world, sequences)):
        for i, target in enumerate(sequence[1:]):
            text = target < VOCABULARY.text_size
            own = scores[i, : VOCABULARY.text_size] if text else scores[i, VOCABULARY.text_size :]
            index = target if text else target - VOCABULARY.text_size
            expected = np.log(np.exp(own - own.max()).sum()) + own.max() - own[index]
            np.testing.assert_allclose(nll[start + i], expected, rtol=1e-4, atol=1e-4)
        start += len(sequence)


def make_engine(world, **changes):
    parts = {
        "config": CONFIG,
        "tokenizer": TOKENIZER,
        "vocabulary": VOCABULARY,
        "frame_tokenizer": None,
        "mesh": world.mesh,
        "limits": EngineConfig(max_context_tokens=256),
    }
    return Engine(world.model, **{**parts, **changes})


def test_what_does_not_fit_is_refused():
    engine = make_world(ring=1).engine
    with pytest.raises(InputError, match="context of this model"):
        engine.complete(["A red circle " * 600], max_new_tokens=5, sampling=GREEDY)
    with pytest.raises(InputError, match="context of this model"):
        engine.generate_codes(["a"], frames=100, sampling=GREEDY)
    with pytest.raises(InputError, match="new tokens"):
        engine.complete(["A"], max_new_tokens=0, sampling=GREEDY)
    with pytest.raises(InputError, match="frames"):
        engine.generate_codes(["a"], frames=0, sampling=GREEDY)
    with pytest.raises(InputError, match="prompt: got no token"):
        engine.continue_ids([np.zeros(0, np.int32)], max_new_tokens=5, sampling=GREEDY)
    with pytest.raises(InputError, match="one of them"):
        Question(text="?", frames=np.zeros((1, 4, 4, 3), np.uint8), document="A")


def test_parts_that_do_not_belong_together_are_refused():
    with pytest.raises(InputError, match="parts of one run"):
        make_engine(make_world(ring=1), vocabulary=dataclasses.replace(VOCABULARY, codes=7))
    with pytest.raises(InputError, match="frame tokenizer"):
        make_engine(make_world(ring=1)).generate_frames(["a"], frames=1, sampling=GREEDY)
