"""What a user does with a model: complete, answer, draw and score, with words, arrays and files."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from ringworld.core.errors import InputError
from ringworld.inference.config import (
    GREEDY,
    GenerationLimits,
    SamplingConfig,
    SamplingDefaults,
    WatchingConfig,
)
from ringworld.inference.prompts import Prompts
from ringworld.inference.world import World
from ringworld.model.decode import GenerationWeights
from ringworld.model.forward import Forward
from ringworld.model.world_model import WorldModel
from ringworld.text.templates import ChatTemplate
from ringworld.text.vocabulary import Vocabulary
from ringworld.vision.write_media import write_image, write_video
from tests.inference.tiny_world import ARCHITECTURE, EXECUTION, FORWARD, TOKENIZER, make_world, random_weights

QUESTION = "Which color?"


def video(frames: int, side: int = 8) -> np.ndarray:
    shades = np.linspace(0, 255, frames).astype(np.uint8)
    return np.broadcast_to(shades[:, None, None, None], (frames, side, side, 3)).copy()


def test_one_text_gives_one_and_several_give_several():
    world = make_world(ring=1).world
    one = world.complete("A red", max_new_tokens=8)
    assert world.complete(["A red"], max_new_tokens=8) == [one]
    assert isinstance(one, str)
    assert world.complete([], max_new_tokens=8) == []


def test_completions_say_what_was_written_how_likely_it_is_and_why_it_ended():
    world = make_world(ring=1).world
    first, second = world.completions("A red", samples=2, max_new_tokens=8, seed=3)
    assert first.text == world.complete("A red", max_new_tokens=8, seed=3) != second.text
    for each in (first, second):
        assert TOKENIZER.decode(each.tokens.tolist()) == each.text
        assert each.logprobs.shape == each.tokens.shape
        assert (each.logprobs < 0).all()
        assert each.finish == "length"


def test_answers_are_drawn_beside_each_other_and_the_first_is_the_answer():
    world = make_world(ring=1).world
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    drawn = {"video": frames, "max_new_tokens": 8, "seed": 3, "temperature": 1.0}
    three = world.answers("Which color?", samples=3, **drawn)
    assert three[0].text == world.answer("Which color?", **drawn)
    assert len({tuple(each.tokens.tolist()) for each in three}) == 3
    assert all(each.text == each.text.strip() for each in three)


def test_an_answer_ends_where_the_template_of_the_model_ends_turns(monkeypatch):
    made = make_world(ring=1).world
    turns = "{% for m in messages %}{{ m.content }}{{ '</vision>' if m.role == 'assistant' }}{% endfor %}"
    template = ChatTemplate(source=turns, tokenizer=TOKENIZER, vocabulary=made.prompts.vocabulary)
    prompts = Prompts(TOKENIZER, vocabulary=made.prompts.vocabulary, frame_tokenizer=None, template=template)
    assert prompts.more_ends == tuple(TOKENIZER.vision_end)
    assert made.prompts.more_ends == ()
    whole = made.answer(QUESTION, max_new_tokens=6)
    first = made.reply([made.prompts.question(QUESTION)], max_new_tokens=6, sampling=GREEDY)[0].tokens[0]
    monkeypatch.setattr(made.prompts, "more_ends", (int(first),))
    assert (made.answer(QUESTION, max_new_tokens=6), whole != "") == ("", True)


@pytest.mark.parametrize("several", [False, True])
def test_a_text_ends_before_a_stop_string_also_across_tokens(several):
    world = make_world(ring=1).world
    whole = world.completions("A red", max_new_tokens=12, seed=3)[0]
    pieces = [TOKENIZER.decode(whole.tokens[:n].tolist()) for n in range(13)]
    end = len(pieces[6])
    stop = whole.text[end - 2 : end + 1]
    before = whole.text[: whole.text.index(stop)]
    stops = ["nowhere", stop] if several else stop
    ended = world.completions("A red", max_new_tokens=12, seed=3, stop=stops)[0]
    assert (ended.text, ended.finish) == (before, "stop")
    # A character that is not whole yet is waited for.
    least = next(
        n for n, piece in enumerate(pieces) if stop in piece and piece[-1] != "\N{REPLACEMENT CHARACTER}"
    )
    assert ended.tokens.tolist() == whole.tokens[:least].tolist()
    assert world.complete(["A red", "to"], max_new_tokens=12, seed=3, stop=stops)[0] == before
    assert world.answer("A red", max_new_tokens=12, stop="nowhere") == world.answer(
        "A red", max_new_tokens=12
    )


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"stop": ""}, "stop"),
        ({"stop": ["a", ""]}, "stop"),
        ({"samples": 0}, "samples"),
        ({"samples": 2, "temperature": 0.0}, "samples"),
        ({"top_p": 2.0}, "top_p"),
    ],
    ids=repr,
)
def test_what_no_text_can_be_drawn_with_is_refused(wrong, field):
    with pytest.raises(InputError) as refused:
        make_world(ring=1).world.completions("A red", **wrong)
    assert refused.value.field == field


def test_an_image_is_one_frame_and_a_video_as_many_as_asked():
    world = make_world(ring=1).world
    image = world.draw("to")
    assert (image.shape, image.dtype) == ((1, 4, 4, 3), np.uint8)
    assert [clip.shape for clip in world.draw(["to"], frames=2)] == [(2, 4, 4, 3)]


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_video_that_goes_on_is_the_one_that_was_never_cut(scale):
    world = make_world(ring=1).world
    prompts, vocabulary = world.prompts, world.prompts.vocabulary

    def codes(frames: int, after=None):
        (ids,) = world.generator.generate_frames(
            [prompts.drawing("A red circle", frames=frames, after=after)],
            frames=frames,
            sampling=dataclasses.replace(GREEDY, guidance_scale=scale),
            unconditional=prompts.unconditional(after=after),
        )
        return vocabulary.decode_frames(ids).tolist()

    whole = codes(4)
    assert codes(2, after=np.array(whole[:2])) == whole[2:]
    assert prompts.drawing("A", frames=1, after=np.array(whole[:1])).tolist()[-5:] == [
        *(vocabulary.code_offset + code for code in whole[0]),
        vocabulary.eof,
    ]


def test_what_a_video_goes_on_from_is_a_picture_or_a_film(tmp_path):
    world = make_world(ring=1).world
    frames = video(3)
    write_video(tmp_path / "clip.mp4", frames, frames_per_second=4.0, scale=8)
    write_image(tmp_path / "still.png", frames[0])
    for given, same in ((tmp_path / "still.png", frames[:1]), (str(tmp_path / "clip.mp4"), frames)):
        drawn = world.draw("to", frames=2, after=given, seed=3)
        assert drawn.tolist() == world.draw("to", frames=2, after=same, seed=3).tolist()
        assert drawn.tolist() != world.draw("to", frames=2, seed=3).tolist()
    with pytest.raises(InputError) as refused:
        world.draw("to", after=tmp_path / "none.mp4")
    assert refused.value.path == tmp_path / "none.mp4"


def test_the_defaults_of_the_model_hold_where_the_caller_says_nothing():
    world = make_world(ring=1).world
    world = dataclasses.replace(
        world,
        sampling=SamplingDefaults(
            text=SamplingConfig(seed=3), image=SamplingConfig(seed=4), video=SamplingConfig(seed=5)
        ),
    )
    complete = partial(world.complete, "A red", max_new_tokens=8)
    assert complete() == complete(seed=3, temperature=1.0)
    assert complete() != complete(temperature=0.0)
    assert world.draw("to").tolist() == world.draw("to", seed=4).tolist()
    assert world.draw("to", frames=2).tolist() == world.draw("to", frames=2, seed=5).tolist()


def test_a_file_is_asked_about_as_its_contents_are(tmp_path):
    world = dataclasses.replace(
        make_world(ring=1).world, watching=WatchingConfig(max_frames=3, frames_per_second=4.0)
    )
    frames = video(6)
    write_video(tmp_path / "clip.mp4", frames, frames_per_second=4.0, scale=8)
    write_image(tmp_path / "still.png", frames[5])
    (tmp_path / "story.txt").write_text("A red circle.", encoding="utf-8")
    ask = partial(world.answer, max_new_tokens=8)
    assert ask(QUESTION, image=tmp_path / "still.png") == ask(QUESTION, image=frames[5])
    assert ask(QUESTION, video=str(tmp_path / "clip.mp4")) == ask(QUESTION, video=frames[[0, 2, 5]])
    assert ask(QUESTION, document=tmp_path / "story.txt") == ask(QUESTION, document="A red circle.")
    answers = {ask(QUESTION), ask(QUESTION, image=frames[5]), ask(QUESTION, document="A red circle.")}
    assert len(answers) == 3


def test_a_question_about_two_things_or_about_no_picture_is_refused(tmp_path):
    world = make_world(ring=1).world
    about: dict[str, Any]
    for about, field in (
        ({"video": video(2), "document": "A"}, "document"),
        ({"video": video(2), "image": video(1)}, "document"),
        ({"video": np.zeros((2, 8, 8, 4), np.uint8)}, "frames"),
    ):
        with pytest.raises(InputError) as refused:
            world.answer(QUESTION, **about)
        assert refused.value.field == field
    with pytest.raises(InputError) as refused:
        world.answer(QUESTION, document=tmp_path / "none.txt")
    assert refused.value.path == tmp_path / "none.txt"


def test_a_likely_text_scores_better_than_an_unlikely_one():
    world = make_world(ring=1).world
    begun = "A red circle"
    likely = world.complete(begun, max_new_tokens=6, temperature=0.0)
    score = world.score(begun + likely)
    assert score.tokens == len(TOKENIZER.encode(begun + likely))
    assert score.mean_nats == pytest.approx(score.token_nats.mean(), rel=1e-5)
    assert score.mean_nats < world.score(begun + "oooooo").mean_nats
    with pytest.raises(InputError) as refused:
        world.score("")
    assert refused.value.field == "text"


@pytest.mark.parametrize("text", [b"x", 3, None, ["A", b"x"]], ids=repr)
def test_what_is_no_text_is_refused(text: Any, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    world = make_world(ring=1).world
    asked: dict[str, Any] = {
        "texts": world.complete,
        "captions": world.draw,
        "text": world.score,
        "question": world.answer,
    }
    for field, ask in asked.items():
        with pytest.raises(InputError) as refused:
            ask(text)
        assert refused.value.field == field
        assert refused.value.value == (text[1] if isinstance(text, list) and field[-1] == "s" else text)


def test_weights_that_are_not_numbers_are_refused():
    made = make_world(ring=1)
    with jax.set_mesh(made.mesh):
        broken = jax.tree.map(lambda x: x * jnp.array(np.nan, x.dtype), made.weights)
    world = World.of(
        broken,
        forward=FORWARD,
        prompts=made.world.prompts,
        mesh=made.mesh,
        limits=made.world.generator.limits,
    )
    for ask in (world.complete, world.draw, world.score, world.answer):
        with pytest.raises(InputError) as refused:
            ask("A red circle")
        assert refused.value.field == "weights"


@pytest.fixture(scope="module")
def reader() -> World:
    """A model of text alone."""
    made = make_world(ring=1)
    vocabulary = Vocabulary(text_size=ARCHITECTURE.text_vocab, codes=0, codes_per_frame=0)
    architecture = dataclasses.replace(ARCHITECTURE, vision_vocab=0)
    with jax.set_mesh(made.mesh):
        model = random_weights(WorldModel.abstract(architecture), scale=0.5, mesh=made.mesh)
        weights = GenerationWeights.from_model(model, compute=EXECUTION.compute)
    return World.of(
        weights,
        forward=Forward.of(architecture, EXECUTION),
        prompts=Prompts(TOKENIZER, vocabulary=vocabulary, frame_tokenizer=None),
        mesh=made.mesh,
        limits=GenerationLimits(max_context_tokens=256),
    )


def test_a_model_of_text_alone_completes_answers_and_scores(reader):
    assert isinstance(reader.complete("A red", max_new_tokens=8), str)
    assert isinstance(reader.answer(QUESTION, document="A red circle.", max_new_tokens=8), str)
    assert np.isfinite(reader.score("A red circle").mean_nats)


def test_a_model_of_text_alone_neither_draws_nor_sees(reader):
    for ask in (
        lambda: reader.draw("a red circle"),
        lambda: reader.answer(QUESTION, image=video(1)),
        lambda: reader.answer(QUESTION, video="none.mp4"),
    ):
        with pytest.raises(InputError) as refused:
            ask()
        assert refused.value.field == "frame_tokenizer"
