"""Continuous batching on a ring of two, against each prompt by itself."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from ringworld.core.errors import Busy, InputError
from ringworld.inference.clip_grammar import ClipGrammar
from ringworld.inference.config import GREEDY, EngineConfig, GenerationLimits, SamplingConfig
from ringworld.inference.engine.engine import Engine
from ringworld.inference.engine.inbox import Closed
from ringworld.inference.engine.programs import Programs
from ringworld.inference.engine.sequence import Clips, GenerationRequest
from ringworld.model.config import CacheType
from ringworld.model.decode import GenerationWeights
from ringworld.model.forward import Forward
from ringworld.model.pages import PagePool
from tests.eventually import eventually
from tests.inference.tiny_world import ARCHITECTURE, EXECUTION, FORWARD, TOKENIZER, VOCABULARY, make_world

TEXT = np.random.default_rng(0).integers(5, VOCABULARY.text_size, 400).astype(np.int32)
PROMPTS = [TEXT[:100], TEXT[20:23], TEXT[30:95], TEXT[:1], TEXT[:101], TEXT[200:370], TEXT[5:133]]
WARM = SamplingConfig(seed=5, temperature=0.8, top_p=0.9, repetition_penalty=1.1)
SAMPLINGS = [GREEDY, WARM, WARM, GREEDY, WARM, GREEDY, GREEDY]
NEW = [9, 30, 12, 40, 5, 25, 60]


def make(weights=None, decode=TOKENIZER.decode, forward=FORWARD, **config: Any) -> Engine:
    made = make_world(ring=2)
    return Engine(
        made.weights if weights is None else weights,
        forward=forward,
        vocabulary=VOCABULARY,
        ends=[TOKENIZER.eos],
        decode=decode,
        mesh=made.mesh,
        limits=GenerationLimits(max_context_tokens=256),
        config=EngineConfig(**{"max_sequences": 4, "chunk_tokens": 64, "cache_tokens": 256, **config}),
    )


@pytest.fixture(scope="module")
def engine():
    """Four sequences at once in pages for one context: whoever is long has to make room."""
    with make() as made:
        yield made


@pytest.fixture(scope="module")
def expected():
    """Tokens and log-probabilities of each request, from a batch that is decoded at once."""
    generate = make_world(ring=2).world.generator.generate
    of = {s: generate(PROMPTS, max_new_tokens=max(NEW), sampling=s) for s in (GREEDY, WARM)}
    written = [of[sampling][i] for i, sampling in enumerate(SAMPLINGS)]
    return [(each.tokens[:new].tolist(), each.logprobs[:new]) for each, new in zip(written, NEW)]


def request(i: int, **changes) -> GenerationRequest:
    asked = {"prompt": PROMPTS[i], "max_new_tokens": NEW[i], "sampling": SAMPLINGS[i], **changes}
    return GenerationRequest(**asked)


def ids_of(pieces) -> list[int]:
    return [piece.token.id for piece in pieces if piece.token]


def test_a_request_gives_what_it_gives_alone_whatever_it_is_batched_with(engine, expected):
    before = engine.state.preempted
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        together = list(pool.map(lambda i: list(engine.stream(request(i))), range(len(PROMPTS))))
    assert engine.state.preempted > before
    alone = [list(engine.stream(request(i))) for i in reversed(range(len(PROMPTS)))][::-1]
    for pieces, again, (tokens, logprobs), new in zip(together, alone, expected, NEW):
        assert ids_of(pieces) == ids_of(again) == tokens
        found = [piece.token.logprob for piece in pieces if piece.token]
        np.testing.assert_allclose(found, logprobs, rtol=0, atol=1e-5)
        assert pieces[-1].finish == ("length" if len(tokens) == new else "stop")
        assert "".join(piece.text for piece in pieces) == TOKENIZER.decode(tokens)
    state = engine.state
    assert (state.running, state.waiting, state.held_pages) == (0, 0, 0)


def test_scores_of_bfloat16_are_to_the_bit_those_alone_where_no_pages_are_shared_or_given_up():
    made, chosen = make_world(ring=2), (1, 2, 3, 5, 6)
    forward = Forward.of(ARCHITECTURE, replace(EXECUTION, compute="bfloat16"))
    with jax.set_mesh(made.mesh):
        weights = GenerationWeights.from_model(made.model, compute="bfloat16")

    def scored(stream) -> list[tuple[int, float]]:
        return [(piece.token.id, piece.token.logprob) for piece in stream if piece.token]

    with make(weights, forward=forward, cache_tokens=1024) as engine:
        with ThreadPoolExecutor(len(chosen)) as pool:
            together = list(pool.map(lambda i: scored(engine.stream(request(i))), chosen))
        assert engine.state.preempted == engine.state.reused_tokens == 0
    with make(weights, forward=forward, cache_tokens=1024) as engine:
        assert together == [scored(engine.stream(request(i))) for i in reversed(chosen)][::-1]


def test_what_others_write_while_a_prompt_is_read_is_no_repetition_of_its_own(engine):
    # Two ids and a preference for what was seen, so that one more that counts as seen is drawn.
    sampling = replace(GREEDY, repetition_penalty=0.1)
    for start in range(0, 15, 5):
        asked = request(0, prompt=np.tile(TEXT[start : start + 2], 80), sampling=sampling)
        writing = engine.stream(request(1))
        next(writing)
        beside = ids_of(engine.stream(asked))
        writing.close()
        assert beside == ids_of(engine.stream(asked))


def test_what_was_read_before_is_reused_and_changes_nothing(engine, expected):
    list(engine.stream(request(6, max_new_tokens=1)))
    read = engine.state.read_tokens
    pieces = list(engine.stream(request(6)))
    assert pieces[-1].reused_tokens == 96
    assert engine.state.read_tokens - read == len(PROMPTS[6]) - 1 - 96
    assert ids_of(pieces) == expected[6][0]


def test_a_request_is_cancelled_at_any_moment_and_leaves_no_trace(engine, expected):
    reading = engine.stream(request(5))
    writing = engine.stream(request(1, max_new_tokens=200))
    other = engine.stream(request(2))
    next(writing)
    for stream in (reading, writing):
        stream.close()
    never = engine.stream(request(3))
    del never
    assert ids_of(other) == expected[2][0]
    eventually(lambda: engine.state.running + engine.state.waiting + engine.state.held_pages == 0)


def test_a_prompt_is_scored_as_by_the_scorer_beside_others(engine):
    writing = engine.stream(request(1, max_new_tokens=40))
    (piece,) = engine.stream(request(0, max_new_tokens=0, score_prompt=True, alternatives=3))
    losses = make_world(ring=2).world.scorer.losses(PROMPTS[0])
    assert [token.id for token in piece.prompt] == PROMPTS[0][1:].tolist()
    np.testing.assert_allclose([-token.logprob for token in piece.prompt], losses, rtol=0, atol=1e-5)
    assert piece.finish == "length"
    for token in piece.prompt:
        likeliest = [logprob for _, logprob in token.alternatives]
        assert len(likeliest) == 3
        assert likeliest == sorted(likeliest, reverse=True)
        assert likeliest[0] >= token.logprob
    assert len(ids_of(writing)) > 0


def test_frames_of_a_prompt_are_scored_among_codes(engine):
    prompt = PROMPTS[0].copy()
    prompt[10:15] = VOCABULARY.encode_frames(np.array([[3, 0, 5, 1]]))
    (piece,) = engine.stream(request(0, prompt=prompt, max_new_tokens=0, score_prompt=True, alternatives=20))
    losses = make_world(ring=2).world.scorer.losses(prompt)
    np.testing.assert_allclose([-token.logprob for token in piece.prompt], losses, rtol=0, atol=1e-5)
    for token in piece.prompt[9:14]:
        assert {id for id, _ in token.alternatives} == {
            *range(VOCABULARY.text_size, FORWARD.architecture.vocab)
        }


def test_scores_and_alternatives_of_what_follows_are_given_together(engine):
    first, *_ = engine.stream(request(0, score_prompt=True, alternatives=2))
    assert len(first.prompt) == len(PROMPTS[0]) - 1
    assert first.token.alternatives[0] == (first.token.id, pytest.approx(first.token.logprob))


def test_each_ends_at_its_own_stops(engine, expected):
    tokens = expected[6][0]
    (ended,) = [list(engine.stream(request(6, ends=(tokens[7],))))]
    assert ids_of(ended) == tokens[: tokens.index(tokens[7])]
    text = TOKENIZER.decode(tokens)
    stopped = list(engine.stream(request(6, stop=(text[20:23],))))
    assert "".join(piece.text for piece in stopped) == text[: text.index(text[20:23])]
    assert ended[-1].finish == stopped[-1].finish == "stop"


def test_ends_are_ignored_where_that_is_asked(engine, expected):
    tokens = expected[5][0]
    asked = {"ends": (tokens[2],), "sampling": GREEDY}
    assert ids_of(engine.stream(request(5, **asked))) == tokens[: tokens.index(tokens[2])]
    assert ids_of(engine.stream(request(5, ignores_ends=True, **asked))) == tokens


def test_the_first_sample_of_a_prompt_is_what_it_gives_alone_and_others_differ(engine, expected):
    streams = [engine.stream(request(1, sample=i)) for i in range(3)]
    first, *others = map(ids_of, streams)
    assert first == expected[1][0]
    assert len({tuple(ids) for ids in (first, *others)}) == 3


def test_no_request_waits_for_a_compiler_after_warming_up():
    with make() as engine:
        engine.warm_up()
        jax.config.update("jax_no_tracing", True)
        try:
            first, *_ = engine.stream(request(0, score_prompt=True, alternatives=3, max_new_tokens=2))
        finally:
            jax.config.update("jax_no_tracing", False)
    assert len(first.prompt) == len(PROMPTS[0]) - 1


def test_what_does_not_fit_is_refused(engine):
    for length, new in ((0, 1), (200, 57)):
        with pytest.raises(InputError) as refused:
            engine.submit(request(0, prompt=TEXT[:length], max_new_tokens=new), print)
        assert (refused.value.field, refused.value.value) == ("prompt", length)
    for id in (-1, FORWARD.architecture.vocab):
        with pytest.raises(InputError) as refused:
            engine.submit(request(0, prompt=np.array([id], np.int32)), print)
        assert refused.value.field == "prompt"


def test_a_full_queue_refuses_and_closing_ends_those_that_wait():
    with make(max_waiting=2) as made:
        # Nothing is compiled for so many sequences yet, so that the first round lasts.
        streams = [made.stream(request(1, max_new_tokens=200))]
        eventually(lambda: made.state.running == 1)
        streams += [made.stream(request(i)) for i in (0, 2)]
        with pytest.raises(Busy) as busy:
            made.stream(request(3))
        assert busy.value.waiting == 2
    for stream in streams:
        with pytest.raises(Closed):
            list(stream)
    with pytest.raises(Closed):
        made.submit(request(0), print)


def test_scores_that_are_not_finite_end_their_request_alone(expected):
    made = make_world(ring=2)
    poison = int(PROMPTS[0][0])
    assert poison not in PROMPTS[2]
    assert poison not in expected[2][0]
    embed = np.array(made.weights.embed)
    embed[poison] = np.nan
    spoiled = jax.device_put(embed, made.weights.embed.sharding)
    with make(replace(made.weights, embed=spoiled)) as engine:
        good = engine.stream(request(2))
        with pytest.raises(InputError) as refused:
            list(engine.stream(request(0)))
        assert refused.value.field == "weights"
        assert ids_of(good) == expected[2][0]
        assert ids_of(engine.stream(request(2))) == expected[2][0]


def test_an_error_of_a_round_ends_those_that_run_and_no_others(expected):
    fails = [True]

    def decode(ids):
        if fails:
            raise OSError(fails.pop())
        return TOKENIZER.decode(ids)

    with make(decode=decode) as engine:
        broken = engine.stream(request(1))
        with pytest.raises(OSError):
            list(broken)
        assert ids_of(engine.stream(request(2))) == expected[2][0]
        assert not engine.closed
    assert engine.closed


def test_a_job_that_is_cancelled_before_its_turn_does_not_run_and_ends_nobody(engine, expected):
    held, over, ran = threading.Event(), threading.Event(), []
    engine.between_rounds(lambda *_: (held.set(), over.wait(60)))
    assert held.wait(60)
    assert engine.between_rounds(lambda *_: ran.append(True)).cancel()
    over.set()
    assert ids_of(engine.stream(request(2))) == expected[2][0]
    assert not ran


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_everyone_is_answered_where_the_cache_cannot_be_emptied_after_an_error(monkeypatch):
    def fail(*_: object) -> None:
        raise OSError("the device is lost")

    monkeypatch.setattr(Programs, "clear", fail)
    with make(decode=fail) as engine:
        streams = [engine.stream(request(i)) for i in range(6)]
        for stream in streams:
            with pytest.raises(Closed):
                list(stream)


def test_a_cache_of_less_than_a_context_is_refused():
    with pytest.raises(InputError) as refused:
        make(cache_tokens=255)
    assert (refused.value.field, refused.value.value) == ("cache_tokens", 255)
    for name, least in {
        "max_sequences": 1,
        "chunk_tokens": 1,
        "max_waiting": 1,
        "page_tokens": 0,
        "cache_tokens": 0,
    }.items():
        with pytest.raises(InputError) as refused:
            EngineConfig(**{name: least - 1})  # type: ignore[arg-type]
        assert refused.value.field == name


def drawings() -> list[dict]:
    return [
        {"frames": 1, "seed": 3, "guidance_scale": 1.0},
        {"frames": 3, "seed": 4, "guidance_scale": 4.0, "top_k": 5},
        {"frames": 12, "seed": 5, "guidance_scale": 2.5, "temperature": 0.7, "repetition_penalty": 1.2},
    ]


def test_frames_are_those_of_world_draw_whatever_is_written_beside_them(engine, expected):
    world = make_world(ring=2).world
    asked = [world.drawing(f"A red circle {i}", **changes) for i, changes in enumerate(drawings())]
    before = engine.state.preempted
    with ThreadPoolExecutor(len(asked) + len(PROMPTS)) as pool:
        texts = [pool.submit(lambda i=i: list(engine.stream(request(i)))) for i in range(len(PROMPTS))]
        pictures = [pool.submit(lambda each=each: list(engine.stream(each))) for each in asked]
    assert engine.state.preempted > before
    for i, (drawn, changes) in enumerate(zip(pictures, drawings())):
        pieces = drawn.result()
        pixels = world.prompts.pixels(np.array(ids_of(pieces), np.int32))
        np.testing.assert_array_equal(pixels, world.draw(f"A red circle {i}", **changes))
        assert (pieces[-1].finish, "".join(piece.text for piece in pieces)) == ("stop", "")
    assert [ids_of(text.result()) for text in texts] == [tokens for tokens, _ in expected]
    state = engine.state
    assert (state.running, state.waiting, state.held_pages) == (0, 0, 0)


def test_a_guided_drawing_that_is_cancelled_gives_both_its_rows_back(engine):
    drawing = engine.stream(make_world(ring=2).world.drawing("A", frames=10, guidance_scale=2.0))
    next(drawing)
    assert engine.state.running == 2
    drawing.close()
    eventually(lambda: engine.state.running + engine.state.held_pages == 0)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"frames": 60}, "prompt"),
        # 30 frames are 150 tokens, twice in pages for 256.
        ({"frames": 30, "guidance_scale": 2.0}, "guidance_scale"),
        ({"frames": 0}, "frames"),
    ],
)
def test_a_drawing_that_needs_more_than_there_is_is_refused(engine, changes, field):
    with pytest.raises(InputError) as refused:
        engine.submit(make_world(ring=2).world.drawing("A red circle", **changes), print)
    assert refused.value.field == field


def test_guidance_takes_two_sequences_and_frames_are_whole():
    asked = make_world(ring=2).world.drawing("A", frames=2, guidance_scale=2.0)
    with make(max_sequences=1) as made:
        with pytest.raises(InputError) as refused:
            made.submit(asked, print)
        assert refused.value.field == "guidance_scale"
        with pytest.raises(InputError) as refused:
            made.submit(replace(asked, max_new_tokens=9), print)
        assert refused.value.field == "max_new_tokens"


def clips(begin: tuple[int, ...]) -> Clips:
    close = (TOKENIZER.eos, 7)
    grammar = ClipGrammar(vocabulary=VOCABULARY, begin=begin, close=close, most_frames=3)
    return Clips(grammar=grammar, sampling=SamplingConfig(seed=3))


def clip_of(ids: list[int]) -> tuple[list[int], list[int]]:
    """Return the ids of the frames that come first, and those after them."""
    end = ids.index(VOCABULARY.eov) + 1
    VOCABULARY.decode_frames(np.array(ids[:end]))
    return ids[:end], ids[end:]


def test_a_text_holds_a_clip_where_it_begins_one_whatever_is_written_beside_it(engine, expected):
    tokens = expected[6][0]
    begin = tuple(tokens[3:5])
    asked = request(6, max_new_tokens=45, clips=clips(begin))
    with ThreadPoolExecutor(4) as pool:
        beside = [pool.submit(lambda i=i: list(engine.stream(request(i)))) for i in range(3)]
        pieces = list(engine.stream(asked))
        for each in beside:
            each.result()
    ids = ids_of(pieces)
    assert ids == ids_of(engine.stream(asked))
    assert ids[:5] == tokens[:5]
    frames, after = clip_of(ids[5:])
    assert 1 <= len(frames) // VOCABULARY.frame_tokens <= 3
    # What closes a clip ends no text, and is none.
    assert after[:2] == [TOKENIZER.eos, 7]
    assert len(after) > 2
    shown = "".join(piece.text for piece in pieces)
    assert shown.startswith(TOKENIZER.decode(tokens[:3]))
    assert not VOCABULARY.is_vision(np.array(after)).any()


def test_a_prompt_that_begins_a_clip_is_answered_with_one(engine):
    asked = request(1, clips=clips(tuple(PROMPTS[1][-2:].tolist())), max_new_tokens=30)
    frames, after = clip_of(ids_of(engine.stream(asked)))
    assert after[:2] == [TOKENIZER.eos, 7]
    cut = ids_of(engine.stream(replace(asked, max_new_tokens=3)))
    assert cut == frames[:3]


def test_a_clip_is_guided_as_a_drawing_is_whatever_is_written_beside_it(engine):
    world = make_world(ring=2).world
    prompt, unconditional = world.prompts.drawing("A red circle", frames=1), world.prompts.unconditional()
    sampling = SamplingConfig(seed=3, guidance_scale=4.0)
    grammar = replace(clips(TOKENIZER.vision_start).grammar, most_frames=1)
    asked = GenerationRequest(
        prompt=prompt,
        max_new_tokens=40,
        clips=Clips(grammar=grammar, sampling=sampling),
        unconditional=unconditional,
    )
    (drawn,) = world.generator.generate_frames(
        [prompt], frames=1, sampling=sampling, unconditional=unconditional
    )
    before = engine.state.preempted
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        beside = [pool.submit(lambda i=i: list(engine.stream(request(i)))) for i in range(len(PROMPTS))]
        ids = ids_of(engine.stream(asked))
        for each in beside:
            each.result()
    assert engine.state.preempted > before
    assert ids[: len(drawn)] == drawn.tolist()
    assert ids == ids_of(engine.stream(asked))
    plain = replace(asked, clips=Clips(grammar=grammar, sampling=replace(sampling, guidance_scale=1.0)))
    assert ids[: len(drawn)] != ids_of(engine.stream(replace(plain, unconditional=None)))[: len(drawn)]
    eventually(lambda: engine.state.running + engine.state.held_pages == 0)


def test_what_only_seems_to_begin_a_clip_is_text(engine, expected):
    tokens = expected[6][0]
    never = (tokens[3], VOCABULARY.text_size - 1)
    pieces = list(engine.stream(request(6, clips=clips(never))))
    assert ids_of(pieces) == tokens
    assert "".join(piece.text for piece in pieces) == TOKENIZER.decode(tokens)


def test_clips_and_frames_are_not_asked_for_together():
    with pytest.raises(InputError) as refused:
        request(1, clips=clips((5,)), frames=2)
    assert refused.value.field == "clips"


def test_a_rounded_cache_gives_the_same_alone_and_together_and_little_else_than_a_whole_one(expected):
    with make(cache_type="int8") as engine:
        with ThreadPoolExecutor(len(PROMPTS)) as pool:
            together = list(pool.map(lambda i: ids_of(engine.stream(request(i))), range(len(PROMPTS))))
        assert engine.state.preempted
        assert together == [ids_of(engine.stream(request(i))) for i in range(len(PROMPTS))]
        (piece,) = engine.stream(request(0, max_new_tokens=0, score_prompt=True))
    losses = make_world(ring=2).world.scorer.losses(PROMPTS[0])
    errors = np.abs([-token.logprob for token in piece.prompt] - losses)
    # 255 steps: of the order of a hundredth, and not none.
    assert 1e-5 < errors.mean() < 0.1


def test_a_cache_takes_the_bytes_of_its_numbers():
    architecture = replace(FORWARD.architecture, head=64, layers=3)
    widths: dict[CacheType, int] = {"compute": 2, "int8": 1}
    for cache_type, width in widths.items():
        with jax.set_mesh(make_world(ring=1).mesh):
            pool = PagePool.init(
                architecture, pages=5, page_tokens=32, compute="bfloat16", cache_type=cache_type
            )
        numbers = architecture.layers * 2 * architecture.kv_heads * architecture.head * 5 * 32
        assert numbers * width <= sum(leaf.nbytes for leaf in jax.tree.leaves(pool)) <= 1.1 * numbers * width
