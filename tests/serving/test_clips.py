"""Answers that hold images and videos, and their codes in the next turn."""

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ringworld.inference.config import EngineConfig
from ringworld.text.templates import ChatTemplate, Message
from tests.inference.tiny_world import TOKENIZER, VOCABULARY
from tests.serving.test_drawing import frames_of
from tests.serving.test_server import TEXT, WORLD, events, picture, send, serving

ASKED = [{"role": "user", "content": TEXT}]


@pytest.fixture(scope="module")
def port():
    # One context: what is guided shares it with the sequence that it is compared with.
    config = EngineConfig(max_sequences=2, chunk_tokens=64, cache_tokens=512)
    with WORLD.engine(config) as engine, serving(engine, limits={"max_frames": 9}) as found:
        yield found


def chat(port: int, **body):
    return send(port, "/v1/chat/completions", {"messages": ASKED, "seed": 3, "max_tokens": 40, **body})


def codes_of(choice: dict) -> list[list[int]]:
    """Return the codes of the first clip, as the tokens of an answer tell."""
    names = [each["token"] for each in choice["logprobs"]["content"]]
    ids = [int(name.removeprefix("token_id:")) for name in names if name.startswith("token_id:")]
    return VOCABULARY.decode_frames(np.array(ids[: ids.index(VOCABULARY.eov) + 1])).tolist()


def ids_of(port: int, message: dict) -> list[int]:
    """Return the ids of a conversation in which a message comes back."""
    status, answered = send(port, "/tokenize", {"messages": [*ASKED, message, *ASKED]})
    assert status == 200, answered
    return answered["tokens"]


def content_of(part: dict) -> bytes:
    return base64.b64decode(part[part["type"]]["url"].partition(",")[2])


def test_an_answer_begins_with_an_image_which_is_the_same_in_the_next_turn(port):
    status, answered = chat(port, modalities=["image"], logprobs=True)
    assert status == 200
    (choice,) = answered["choices"]
    codes = codes_of(choice)
    (image,) = choice["message"]["images"]
    pixels = np.asarray(Image.open(io.BytesIO(content_of(image))))
    np.testing.assert_array_equal(pixels, WORLD.prompts.seeing().decode(np.array(codes, np.int32))[0])
    for message in (choice["message"], {"role": "assistant", "content": [image]}):
        ids = np.array(ids_of(port, message))
        assert VOCABULARY.decode_frames(ids[VOCABULARY.is_vision(ids)]).tolist() == codes


def test_a_message_that_comes_back_shows_what_it_drew_where_it_stood(port):
    image, said = {"type": "image_url", "image_url": {"url": picture()}}, "A red circle."
    message = {"role": "assistant", "content": said}

    def parts(*content: str | dict) -> list[int]:
        listed = [{"type": "text", "text": each} if isinstance(each, str) else each for each in content]
        return ids_of(port, {"role": "assistant", "content": listed})

    for offset, expected in ((0, (image, said)), (5, ("A red", image, " circle."))):
        drawn = ids_of(port, {**message, "images": [{**image, "content_offset": offset}]})
        assert drawn == parts(*expected) != ids_of(port, message)
    # One of another server, which does not say where it stood, comes last.
    assert ids_of(port, {**message, "content": None, "images": [image]}) == parts(image)
    assert ids_of(port, {**message, "images": [image]}) == parts(said, image)


def test_an_image_of_an_answer_is_guided_as_one_that_is_drawn_by_itself(port):
    _, answered = chat(port, modalities=["image"], guidance_scale=4.0, logprobs=True)
    template = ChatTemplate.of(TOKENIZER, vocabulary=VOCABULARY)
    said = template.encode([Message(role="user", content=(TEXT,))])
    (drawn,) = WORLD.generator.generate_frames(
        [np.concatenate([said, np.array(TOKENIZER.vision_start, np.int32)])],
        frames=1,
        sampling=replace(WORLD.sampling.image, seed=3, guidance_scale=4.0),
        unconditional=WORLD.prompts.unconditional(),
    )
    assert codes_of(answered["choices"][0]) == VOCABULARY.decode_frames(drawn).tolist()
    status, answered = chat(port, modalities=["image"], guidance_scale=-1.0)
    assert (status, answered["error"]["param"]) == (400, "guidance_scale")


def test_a_guided_answer_of_no_given_length_has_room_for_both_its_sequences(port):
    letters = list("etaoinshrdlu ., ")
    for frames in (1, 9):
        asked = {"modalities": ["text", "video"], "num_frames": frames, "guidance_scale": 4.0}
        status, answered = chat(port, max_tokens=None, stop=letters, **asked)
        assert status == 200, answered
        whole = 512 - answered["usage"]["prompt_tokens"]
        status, answered = chat(port, max_tokens=whole, **asked)
        assert (status, answered["error"]["param"]) == (400, "guidance_scale")


def test_a_video_comes_within_a_stream(port):
    asked = {"modalities": ["video"], "num_frames": 3}
    codes = codes_of(chat(port, logprobs=True, **asked)[1]["choices"][0])
    _, answered = chat(port, stream=True, **asked)
    deltas = [chunk["choices"][0]["delta"] for chunk in events(answered)]
    (shown,) = (part for delta in deltas for part in (*delta.get("images", ()), *delta.get("videos", ())))
    content = content_of(shown)
    if len(codes) == 1:
        assert Image.open(io.BytesIO(content)).format == "PNG"
    else:
        assert frames_of(content) == len(codes)
    assert not any("token_id" in delta.get("content", "") for delta in deltas)


def test_an_answer_says_where_in_its_text_an_image_stands_as_a_stream_does(port):
    asked = {"modalities": ["text", "image"], "temperature": 1.0, "max_tokens": 60}
    for seed in range(40):
        message = chat(port, seed=seed, **asked)[1]["choices"][0]["message"]
        if any(image["content_offset"] for image in message.get("images", ())):
            break
    else:
        pytest.fail("no text of a random model held what begins an image")
    _, answered = chat(port, seed=seed, stream=True, **asked)
    text, images = "", []
    for delta in (chunk["choices"][0]["delta"] for chunk in events(answered)):
        images += [(len(text), each) for each in delta.get("images", ())]
        text += delta.get("content", "")
    assert text == message["content"]
    assert images == [(each["content_offset"], each) for each in message["images"]]


def test_a_text_in_which_the_model_draws_nothing_is_that_of_any_answer(port):
    plain, may = (chat(port, temperature=0, **asked)[1] for asked in ({}, {"modalities": ["text", "image"]}))
    assert "images" not in plain["choices"][0]["message"]
    assert may["choices"][0]["message"]["content"] == plain["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("changed", "param", "code"),
    [
        ({"modalities": ["text", "audio"]}, "modalities", None),
        ({"modalities": 3}, "modalities", None),
        ({"modalities": ["video"], "num_frames": 10}, "num_frames", "too_many_frames"),
        ({"modalities": ["video"], "num_frames": 0}, "num_frames", None),
    ],
)
def test_what_no_answer_can_hold_is_refused(port, changed, param, code):
    status, answered = chat(port, **changed)
    assert (status, answered["error"]["param"], answered["error"]["code"]) == (400, param, code)


def test_texts_alone_hold_no_clips(port, monkeypatch):
    status, answered = send(port, "/v1/completions", {"prompt": "A", "modalities": ["image"]})
    assert (status, answered["error"]["code"]) == (400, "unsupported_parameter")
    monkeypatch.setattr(WORLD.prompts, "frame_tokenizer", None)
    status, answered = chat(port, modalities=["image"])
    assert (status, answered["error"]["code"]) == (400, "vision_not_supported")


def test_where_no_number_of_frames_is_given_no_more_are_drawn_than_may(port):
    assert WORLD.watching.max_frames > 9
    assert chat(port, modalities=["text", "video"], max_tokens=2)[0] == 200
    status, video = send(port, "/v1/videos", {"prompt": TEXT})
    assert (status, video["num_frames"]) == (200, 9)
