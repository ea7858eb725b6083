"""OpenAI's own client against a real server: what it sends is understood, and what it reads is typed."""

import base64
import io

import numpy as np
import openai
import pytest
from PIL import Image

from ringworld.inference.config import EngineConfig
from ringworld.vision.write_media import write_video
from tests.serving.test_drawing import frames_of
from tests.serving.test_server import TEXT, WORLD, serving

ASKED = [{"role": "user", "content": TEXT}]
KEY = "a-long-key"


@pytest.fixture(scope="module")
def port():
    config = EngineConfig(max_sequences=4, chunk_tokens=64)
    with (
        WORLD.engine(config) as engine,
        serving(engine, keys=(KEY,), limits={"max_body_bytes": 100_000}) as found,
    ):
        yield found


@pytest.fixture(scope="module")
def client(port):
    with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=KEY, max_retries=0) as made:
        yield made


def test_a_conversation_whole_and_streamed(client):
    options = {"model": "tiny", "messages": ASKED, "max_tokens": 8, "temperature": 0, "n": 2}
    whole = client.chat.completions.create(logprobs=True, top_logprobs=2, **options)
    expected = "".join(WORLD.chat(max_new_tokens=8).ask(TEXT)).strip()
    assert [choice.message.content for choice in whole.choices] == [expected] * 2
    for choice in whole.choices:
        scores = choice.logprobs.content
        assert [len(each.top_logprobs) for each in scores] == [2] * len(scores)
        assert all(each.logprob == each.top_logprobs[0].logprob for each in scores)
    chunks = list(
        client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **options)
    )
    for index in range(2):
        mine = [each for chunk in chunks for each in chunk.choices if each.index == index]
        assert "".join(each.delta.content or "" for each in mine) == expected
        assert mine[-1].finish_reason == whole.choices[index].finish_reason
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    with client.chat.completions.stream(model="tiny", messages=ASKED, max_tokens=8, temperature=0) as stream:
        said = [event.delta for event in stream if event.type == "content.delta"]
    assert "".join(said) == expected


def test_texts_with_echo_and_their_scores(client):
    made = client.completions.create(
        model="tiny", prompt=[TEXT, "A"], max_tokens=1, echo=True, logprobs=1, temperature=0
    )
    for choice, text in zip(made.choices, (TEXT, "A"), strict=True):
        assert choice.text.startswith(text)
        scores = choice.logprobs
        prompt = WORLD.prompts.text(text)
        losses = WORLD.scorer.losses(prompt)
        np.testing.assert_allclose(scores.token_logprobs[1 : len(prompt)], -losses, rtol=0, atol=1e-5)
        assert scores.token_logprobs[0] is None
    pieces = list(
        client.completions.create(model="tiny", prompt=TEXT, max_tokens=8, temperature=0, stream=True)
    )
    (expected,) = WORLD.completions(TEXT, max_new_tokens=8, temperature=0.0)
    assert "".join(piece.choices[0].text for piece in pieces) == expected.text


def test_an_answer_that_holds_an_image_goes_back_as_it_came(client):
    drawn = {"seed": 3, "extra_body": {"modalities": ["image"]}}
    answered = client.chat.completions.create(model="tiny", messages=ASKED, max_tokens=12, **drawn)
    message = answered.choices[0].message
    asked = {"model": "tiny", "max_tokens": 1}
    shown, without = (
        client.chat.completions.create(messages=[*ASKED, each, *ASKED], **asked).usage.prompt_tokens
        for each in (message, {"role": "assistant", "content": message.content})
    )
    # Four codes and an end, and what stands around them.
    assert shown >= without + 5


def test_files_are_kept_and_shown(client, tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (6, 32, 32, 3)).astype(np.uint8)
    write_video(tmp_path / "film.mp4", frames, frames_per_second=4)
    with (tmp_path / "film.mp4").open("rb") as film:
        kept = client.files.create(file=film, purpose="user_data")
    book = client.files.create(file=("book.txt", TEXT.encode()), purpose="user_data")
    assert (kept.filename, client.files.retrieve(kept.id).bytes) == ("film.mp4", kept.bytes)
    assert {each.id for each in client.files.list()} == {kept.id, book.id}
    assert [*client.files.list(purpose="batch")] == []
    content = [{"type": "file", "file": {"file_id": each.id}} for each in (kept, book)]
    answered = client.chat.completions.create(
        model="tiny", max_tokens=1, messages=[{"role": "user", "content": content}]
    )
    # Six frames of four codes and an end, besides the book.
    assert answered.usage.prompt_tokens > 6 * 5 + len(WORLD.prompts.text(TEXT))
    assert [client.files.delete(each.id).deleted for each in (kept, book)] == [True, True]
    with pytest.raises(openai.NotFoundError) as gone:
        client.files.retrieve(kept.id)
    assert gone.value.code == "file_not_found"


def test_images_whole_and_in_parts(client):
    guided = {"seed": 3, "guidance_scale": 2.0}
    expected = WORLD.draw("A red circle", **guided)[0]
    asked = {"model": "tiny", "prompt": "A red circle", "extra_body": guided}
    made = client.images.generate(size="auto", n=1, response_format="b64_json", **asked)
    parts = list(client.images.generate(stream=True, partial_images=2, **asked))
    for encoded in (made.data[0].b64_json, parts[-1].b64_json):
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))
        np.testing.assert_array_equal(pixels, expected)
    assert [part.type for part in parts] == ["image_generation.partial_image"] * 2 + [
        "image_generation.completed"
    ]
    assert made.usage.output_tokens == 5


@pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")
def test_videos_are_drawn_fetched_and_deleted(client, tmp_path):
    asked = {"seed": 3, "num_frames": 3, "fps": 4}
    made = client.videos.create_and_poll(
        model="tiny", prompt="A red circle", extra_body=asked, poll_interval_ms=20
    )
    assert (made.status, made.progress) == ("completed", 100)
    assert frames_of(client.videos.download_content(made.id).read()) == 3
    assert [each.id for each in client.videos.list()] == [made.id]
    assert client.videos.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(made.id)


def test_models_and_errors(client, port):
    assert [each.id for each in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "ringworld"
    long = [{"role": "user", "content": "x" * 3000}]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    for changed, kind, code in (
        ({"model": "other"}, openai.NotFoundError, "model_not_found"),
        ({"messages": long}, openai.BadRequestError, "context_length_exceeded"),
        ({"tools": tools}, openai.BadRequestError, "unsupported_parameter"),
        ({"temperature": -1}, openai.BadRequestError, None),
        (
            {"messages": [{"role": "user", "content": "x" * 200_000}]},
            openai.APIStatusError,
            "request_too_large",
        ),
    ):
        with pytest.raises(kind) as refused:
            client.chat.completions.create(**{"model": "tiny", "messages": ASKED, **changed})
        assert refused.value.code == code
    with openai.OpenAI(
        base_url=f"http://127.0.0.1:{port}/v1", api_key="another-key", max_retries=0
    ) as stranger:
        with pytest.raises(openai.AuthenticationError) as unknown:
            stranger.models.list()
    assert unknown.value.code == "invalid_api_key"
