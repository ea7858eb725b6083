"""Images and videos over HTTP, from the same engine as text."""

import base64
import http.client
import io
import json

import av
import numpy as np
import pytest
from PIL import Image

from ringworld.inference.config import EngineConfig
from ringworld.serving.errors import ApiError
from ringworld.serving.form import parse_form
from ringworld.vision.write_media import write_video
from tests.eventually import eventually
from tests.serving.test_server import WORLD, picture, send, serving

PROMPT = "A red circle"
GUIDED = {"seed": 3, "guidance_scale": 2.0}


@pytest.fixture(scope="module")
def engine():
    with WORLD.engine(EngineConfig(max_sequences=4, chunk_tokens=64)) as made:
        yield made


@pytest.fixture(scope="module")
def port(engine):
    with serving(engine, limits={"max_frames": 40, "max_videos": 3, "max_body_bytes": 100_000}) as found:
        yield found


def fetch(port: int, path: str, *, method: str = "GET", body: bytes | None = None, **headers: str):
    """Return the status, the type and the bytes of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, response.headers.get("Content-Type", ""), content


def delete(port: int, id: str) -> dict:
    status, _, content = fetch(port, f"/v1/videos/{id}", method="DELETE")
    assert status == 200
    return json.loads(content)


def pixels(encoded: str | bytes) -> np.ndarray:
    content = base64.b64decode(encoded) if isinstance(encoded, str) else encoded
    return np.asarray(Image.open(io.BytesIO(content)))


def frames_of(film: bytes) -> int:
    with av.open(io.BytesIO(film), "r") as container:
        return sum(1 for _ in container.decode(video=0))


def test_images_are_those_that_the_world_draws(port):
    body = {"prompt": PROMPT, "n": 2, "size": "4x4", "response_format": "b64_json", **GUIDED}
    status, answered = send(port, "/v1/images/generations", body)
    assert status == 200
    first, second = (pixels(each["b64_json"]) for each in answered["data"])
    np.testing.assert_array_equal(first, WORLD.draw(PROMPT, **GUIDED)[0])
    assert (first != second).any()
    assert answered["size"] == "4x4"
    usage = answered["usage"]
    assert usage["output_tokens"] == 2 * 5
    assert usage["input_tokens"] == len(WORLD.prompts.drawing(PROMPT, frames=1))


def test_an_image_is_shown_while_it_is_drawn(port):
    body = {"prompt": PROMPT, "stream": True, "partial_images": 3, **GUIDED}
    status, answered = send(port, "/v1/images/generations", body)
    assert status == 200
    events = [dict(line.split(": ", 1) for line in each.splitlines()) for each in answered.split("\n\n")[:-1]]
    whole = WORLD.draw(PROMPT, **GUIDED)[0]
    for i, event in enumerate(events):
        data = json.loads(event["data"])
        assert event["event"] == data["type"]
        shown = pixels(data["b64_json"])
        if i == 3:
            assert data["type"] == "image_generation.completed"
            np.testing.assert_array_equal(shown, whole)
            assert data["usage"]["output_tokens"] == 5
            continue
        assert (data["type"], data["partial_image_index"]) == ("image_generation.partial_image", i)
        # Four codes of two by two pixels; the first i + 1 are drawn, and the others gray.
        gray = [(shown[y : y + 2, x : x + 2] == 128).all() for y in (0, 2) for x in (0, 2)]
        assert gray == [False] * (i + 1) + [True] * (3 - i)


def test_a_video_is_a_job_that_is_looked_at_and_fetched(port):
    body = {"prompt": PROMPT, "num_frames": 6, "fps": 2, **GUIDED}
    _, made = send(port, "/v1/videos", body)
    assert (made["object"], made["seconds"], made["size"], made["model"]) == ("video", "3", "4x4", "tiny")
    id = made["id"]
    eventually(lambda: send(port, f"/v1/videos/{id}")[1]["status"] == "completed")
    _, video = send(port, f"/v1/videos/{id}")
    assert (video["progress"], video["frames_drawn"], video["error"]) == (100, 6, None)
    expected = WORLD.draw(PROMPT, frames=6, **GUIDED)
    for index, frame in enumerate(expected):
        status, kind, content = fetch(port, f"/v1/videos/{id}/frames/{index}")
        assert (status, kind) == (200, "image/png")
        np.testing.assert_array_equal(pixels(content), frame)
    assert fetch(port, f"/v1/videos/{id}/frames/6")[0] == 404
    status, kind, film = fetch(port, f"/v1/videos/{id}/content")
    assert (status, kind, frames_of(film)) == (200, "video/mp4", 6)
    assert fetch(port, f"/v1/videos/{id}/content?variant=thumbnail")[0] == 400
    assert send(port, "/v1/videos")[1]["data"][0] == video
    assert delete(port, id) == {"id": id, "object": "video.deleted", "deleted": True}
    for path in ("", "/content", "/frames/0"):
        assert fetch(port, f"/v1/videos/{id}{path}")[0] == 404


def form(fields: dict[str, str], *, file: bytes | None = None, boundary: str = "xyz") -> bytes:
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    if file is not None:
        head = f"--{boundary}\r\nContent-Disposition: form-data"
        head += '; name="input_reference"; filename="../\u00e4.png"'
        parts.append(f"{head}\r\nContent-Type: image/png\r\n\r\n".encode() + file + b"\r\n")
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


def test_a_video_is_asked_for_by_a_form_and_answered_at_once(port):
    body = form({"prompt": "3", "seconds": "2", "fps": "3", "seed": "5"})
    kind = "multipart/form-data; boundary=xyz"
    status, answered, film = fetch(
        port, "/v1/videos/sync", method="POST", body=body, **{"Content-Type": kind}
    )
    assert (status, answered, frames_of(film)) == (200, "video/mp4", 6)
    with_file = form({"prompt": "3"}, file=b"\x89PNG\r\n--xy\r\n")
    for sent, headers, expected in (
        (with_file, {}, 400),
        (body, {"Origin": "http://evil.example"}, 403),
        (body[:-9], {}, 400),
        (b"", {}, 400),
    ):
        headers = {"Content-Type": kind, **headers}
        status, _, _ = fetch(port, "/v1/videos", method="POST", body=sent, **headers)
        assert status == expected


def test_a_video_continues_a_picture_or_a_film(port, tmp_path):
    red = base64.b64decode(picture().partition(",")[2])
    (tmp_path / "red.png").write_bytes(red)
    write_video(tmp_path / "film.mp4", np.zeros((3, 8, 8, 3), np.uint8), frames_per_second=4)
    film = (tmp_path / "film.mp4").read_bytes()
    as_data = f"data:video/mp4;base64,{base64.b64encode(film).decode()}"
    kind = {"Content-Type": "multipart/form-data; boundary=xyz"}
    fields = {"prompt": PROMPT, "num_frames": "2", "seed": "3", "guidance_scale": "2"}

    def by_form(fields, file=None):
        _, _, made = fetch(port, "/v1/videos", method="POST", body=form(fields, file=file), **kind)
        return json.loads(made)

    body = {"prompt": PROMPT, "num_frames": 2, "input_reference": {"video_url": as_data}, **GUIDED}
    for made, name, given in (
        (by_form(fields, red), "red.png", 1),
        (by_form(fields | {"input_reference[image_url]": picture()}), "red.png", 1),
        (send(port, "/v1/videos", body)[1], "film.mp4", 3),
    ):
        assert (made["num_frames"], made["given_frames"]) == (2, given)
        eventually(lambda id=made["id"]: send(port, f"/v1/videos/{id}")[1]["status"] == "completed")
        for index, frame in enumerate(WORLD.draw(PROMPT, frames=2, after=tmp_path / name, **GUIDED)):
            content = fetch(port, f"/v1/videos/{made['id']}/frames/{index}")[2]
            np.testing.assert_array_equal(pixels(content), frame)
        assert frames_of(fetch(port, f"/v1/videos/{made['id']}/content")[2]) == 2 + given
        delete(port, made["id"])


def test_a_form_is_cut_at_its_boundary_and_nowhere_else():
    content = b"\x00\r\n--xy\r\n\r\n\xff"
    parsed = parse_form("multipart/form-data; boundary=xyz", form({"a": "1", "b": "\u00e4"}, file=content))
    assert parsed.texts == {"a": "1", "b": "\u00e4"}
    assert parsed.files["input_reference"].content == content
    assert parsed.files["input_reference"].name == "\u00e4.png"
    for kind, body in (
        ("multipart/form-data", form({})),
        ("multipart/form-data; boundary=", form({})),
        ("multipart/form-data; boundary=other", form({"a": "1"})),
        ("multipart/form-data; boundary=xyz", b"--xyz\r\n\r\nno name\r\n--xyz--"),
        ("multipart/form-data; boundary=xyz", b"--xyz\r\nno blank line\r\n--xyz--"),
        ("multipart/form-data; boundary=xyz", form({str(i): "" for i in range(65)})),
    ):
        with pytest.raises(ApiError) as refused:
            parse_form(kind, body)
        assert (refused.value.status, refused.value.param) == (400, "body")


@pytest.mark.parametrize(
    ("path", "body", "param", "code"),
    [
        ("/v1/images/generations", {}, "prompt", None),
        ("/v1/images/generations", {"prompt": 3}, "prompt", None),
        ("/v1/images/generations", {"prompt": "a", "size": "256x256"}, "size", "unsupported_size"),
        ("/v1/images/generations", {"prompt": "a", "n": 11}, "n", None),
        ("/v1/images/generations", {"prompt": "a", "n": 2, "stream": True}, "n", None),
        ("/v1/images/generations", {"prompt": "a", "guidance_scale": -1}, "guidance_scale", None),
        ("/v1/images/generations", {"prompt": "a", "partial_images": 4}, "partial_images", None),
        (
            "/v1/images/generations",
            {"prompt": "a", "response_format": "url"},
            "response_format",
            "unsupported_parameter",
        ),
        (
            "/v1/images/generations",
            {"prompt": "a", "negative_prompt": "b"},
            "negative_prompt",
            "unsupported_parameter",
        ),
        ("/v1/images/generations", {"prompt": "x" * 5000}, "prompt", "context_length_exceeded"),
        ("/v1/videos", {"prompt": "a", "num_frames": 41}, "num_frames", "too_many_frames"),
        ("/v1/videos", {"prompt": "a", "seconds": 11}, "seconds", "too_many_frames"),
        ("/v1/videos", {"prompt": "a", "seconds": 1e308}, "seconds", None),
        ("/v1/videos", {"prompt": "a", "seconds": "long"}, "seconds", None),
        ("/v1/videos", {"prompt": "a", "num_frames": 0}, "num_frames", None),
        ("/v1/videos", {"prompt": "a", "fps": 0}, "fps", None),
        ("/v1/videos", {"prompt": "a", "fps": 1e-300}, "fps", None),
        (
            "/v1/videos/sync",
            {"prompt": "a", "input_reference": {}},
            "input_reference.file_data",
            None,
        ),
    ],
)
def test_a_drawing_that_cannot_be_is_refused_by_its_field(port, path, body, param, code):
    status, answered = send(port, path, body)
    assert (status, answered["error"]["param"], answered["error"]["code"]) == (400, param, code)


def test_what_is_not_drawn_yet_says_so_and_too_many_are_refused(port, engine):
    long = {"prompt": PROMPT, "num_frames": 40}
    ids = [send(port, "/v1/videos", long)[1]["id"] for _ in range(3)]
    status, answered = send(port, f"/v1/videos/{ids[2]}/content")
    assert (status, answered["error"]["code"]) == (409, "video_not_ready")
    status, answered = send(port, "/v1/videos", long)
    assert (status, answered["error"]["code"]) == (429, "too_many_videos")
    listed = send(port, f"/v1/videos?order=asc&limit=1&after={ids[0]}")[1]
    assert ([video["id"] for video in listed["data"]], listed["has_more"]) == (ids[1:2], True)
    for id in ids:
        assert delete(port, id)["deleted"]
    eventually(lambda: engine.state.running == engine.state.held_pages == 0)


def test_what_takes_too_long_is_ended(engine):
    with serving(engine, limits={"max_seconds": 1e-3}) as port:
        for path, body in (
            ("/v1/completions", {"prompt": [7], "max_tokens": 400}),
            ("/v1/videos/sync", {"prompt": PROMPT, "num_frames": 40}),
        ):
            status, answered = send(port, path, body)
            assert (status, answered["error"]["code"]) == (504, "time_limit_exceeded")
    eventually(lambda: engine.state.running == engine.state.held_pages == 0)


def test_a_model_of_text_alone_says_that_it_draws_nothing(engine, monkeypatch):
    monkeypatch.setattr(WORLD.prompts, "frame_tokenizer", None)
    with serving(engine) as port:
        for path in ("/v1/images/generations", "/v1/videos", "/v1/videos/sync"):
            status, answered = send(port, path, {"prompt": PROMPT})
            error = answered["error"]
            assert (status, error["code"], error["param"]) == (400, "vision_not_supported", "model")
