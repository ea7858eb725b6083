"""Files that are sent: kept, shown, bounded, decoded by another process, and deleted."""

import base64
import io
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ringworld.core.errors import InputError
from ringworld.inference.config import EngineConfig
from ringworld.serving.config import ServingConfig, ServingLimits
from ringworld.serving.deadline import Deadline
from ringworld.serving.errors import ApiError
from ringworld.serving.files import Files
from ringworld.serving.form import Form, Upload
from ringworld.serving.gate import Gate
from ringworld.serving.media import Kind, Media
from ringworld.serving.metrics import ServerMetrics
from ringworld.text.templates import ChatTemplate, Message
from ringworld.vision.write_media import write_video
from tests.eventually import eventually
from tests.inference.tiny_world import TOKENIZER, VOCABULARY
from tests.serving.test_drawing import fetch
from tests.serving.test_server import WORLD, picture, send, serving

FORM = "multipart/form-data; boundary=xyz"


@pytest.fixture(scope="module")
def port():
    config = EngineConfig(max_sequences=1, chunk_tokens=64)
    with WORLD.engine(config) as engine, serving(engine, limits={"max_files": 2}) as found:
        yield found


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> bytes:
    frames = np.random.default_rng(0).integers(0, 255, (6, 32, 32, 3)).astype(np.uint8)
    path = tmp_path_factory.mktemp("films") / "film.mp4"
    write_video(path, frames, frames_per_second=4)
    return path.read_bytes()


def upload(port: int, content: bytes, *, name: str = "a.bin", field: str = "file"):
    head = f'--xyz\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + b"\r\n--xyz--\r\n"
    status, _, answered = fetch(port, "/v1/files", method="POST", body=body, **{"Content-Type": FORM})
    return status, json.loads(answered)


def delete(port: int, id: str) -> int:
    return fetch(port, f"/v1/files/{id}", method="DELETE")[0]


def ids_of(port: int, *parts: dict, **options) -> list[int]:
    messages = [{"role": "user", "content": [*parts]}]
    status, answered = send(port, "/tokenize", {"messages": messages, **options})
    assert status == 200, answered
    return answered["tokens"]


def test_a_film_is_sent_once_and_shown_by_its_id_or_as_it_is(port, film, tmp_path):
    status, kept = upload(port, film, name="../../film.txt")
    assert (status, kept["filename"], kept["bytes"]) == (200, "film.txt", len(film))
    assert send(port, f"/v1/files/{kept['id']}")[1] == kept
    assert send(port, "/v1/files")[1]["data"] == [kept]
    assert fetch(port, f"/v1/files/{kept['id']}/content") == (200, "application/octet-stream", film)
    path = tmp_path / "film.mp4"
    path.write_bytes(film)
    template = ChatTemplate.of(TOKENIZER, vocabulary=VOCABULARY)
    expected = template.encode([Message(role="user", content=(WORLD.codes(video=path),))]).tolist()
    data = f"data:video/mp4;base64,{base64.b64encode(film).decode()}"
    for part in (
        {"type": "file", "file": {"file_id": kept["id"]}},
        {"type": "file", "file": {"file_data": data}},
        {"type": "video_url", "video_url": {"url": data}},
    ):
        assert ids_of(port, part) == expected
    assert delete(port, kept["id"]) == 200
    gone = {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": kept["id"]}}]}]}
    status, answered = send(port, "/v1/chat/completions", gone)
    assert (status, answered["error"]["code"]) == (404, "file_not_found")
    assert delete(port, kept["id"]) == 404


def test_a_film_is_watched_as_a_request_says(port, film, tmp_path):
    path = tmp_path / "film.mp4"
    path.write_bytes(film)
    part = {"video_url": f"data:video/mp4;base64,{base64.b64encode(film).decode()}"}
    template = ChatTemplate.of(TOKENIZER, vocabulary=VOCABULARY)
    # A second and a half, of four frames each.
    for options, changes, frames in (
        ({"max_frames": 2}, {"max_frames": 2}, 2),
        ({"fps": 2}, {"frames_per_second": 2.0}, 3),
    ):
        codes = replace(WORLD, watching=replace(WORLD.watching, **changes)).codes(video=path)
        assert len(codes) == frames
        expected = template.encode([Message(role="user", content=(codes,))])
        assert ids_of(port, part, **options) == expected.tolist()


def test_a_text_is_a_document(port):
    status, kept = upload(port, "\ufeffA red circle \u00e4.".encode(), name="book.png")
    assert status == 200
    file = {"type": "file", "file": {"file_id": kept["id"]}}
    text = {"type": "text", "text": "A red circle \u00e4."}
    assert ids_of(port, file) == ids_of(port, text)
    assert delete(port, kept["id"]) == 200


def test_files_are_bounded(port):
    kept = [upload(port, b"text")[1]["id"] for _ in range(2)]
    status, answered = upload(port, b"text")
    assert (status, answered["error"]["code"]) == (429, "too_many_files")
    for id in kept:
        assert delete(port, id) == 200
    for content, field in ((b"", "file"), (b"text", "other")):
        status, answered = upload(port, content, field=field)
        assert (status, answered["error"]["param"]) == (400, "file")
    assert send(port, "/v1/files", {})[0] == 415
    for id in ("..", "%2e%2e%2fetc", "file-0", "x" * 5000):
        assert fetch(port, f"/v1/files/{id}")[0] == 404


def test_what_is_kept_too_long_is_deleted_though_nobody_asks(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with (
        WORLD.engine(EngineConfig(max_sequences=1, chunk_tokens=64)) as engine,
        serving(engine, limits={"keep_seconds": 0.2}) as port,
    ):
        assert upload(port, b"text")[0] == 200
        assert [*tmp_path.glob("*/file-*")]
        eventually(lambda: not [*tmp_path.glob("*/file-*")])


def test_files_that_come_at_once_are_bounded_and_one_that_goes_meanwhile_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    config = ServingConfig(name="tiny", limits=ServingLimits(max_files=2))
    with WORLD.engine(EngineConfig(max_sequences=1, chunk_tokens=64)) as engine:
        files = Files(Gate(config, metrics=ServerMetrics(engine)), limits=config.limits)
    form = Form(texts={}, files={"file": Upload(name="a", content=bytes(2**20))})
    together = threading.Barrier(8)

    def add(_: int) -> Any:
        together.wait()
        try:
            return files.add(form)["id"]
        except ApiError as refused:
            return refused.code

    with ThreadPoolExecutor(8) as pool:
        added = [*pool.map(add, range(8))]
    assert added.count("too_many_files") == 6
    for path in tmp_path.glob("*/file-*"):
        path.unlink()
        with pytest.raises(ApiError) as gone:
            files.content(path.name)
        assert (gone.value.status, gone.value.code) == (404, "file_not_found")
    files.close()


def png(side: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), (200, 20, 20)).save(file, "PNG")
    return file.getvalue()


def test_what_is_above_a_limit_is_refused_by_an_error_of_its_own(film):
    cases: list[tuple[bytes, dict[str, Any], str]] = [
        (png(64), {"max_pixels": 4095}, "too_many_pixels"),
        (film, {"max_video_seconds": 1.0}, "video_too_long"),
        (png(64), {"max_decode_seconds": 0.05}, "decode_time_exceeded"),
        # Less than what the process has already.
        (png(4000), {"max_decode_bytes": 2**20}, "decode_memory_exceeded"),
    ]
    for content, limits, code in cases:
        with pytest.raises(ApiError) as refused:
            Media(WORLD, limits=ServingLimits(**limits)).codes(
                content, kind="any", field="file", deadline=Deadline(60)
            )
        assert (refused.value.status, refused.value.code, refused.value.param) == (400, code, "file")


def test_files_that_wait_for_a_decoder_are_few_and_let_nobody_else_wait(port, monkeypatch):
    held = threading.Event()

    def never(command, **options):
        assert held.wait(60)
        raise subprocess.TimeoutExpired(command, 1)

    monkeypatch.setattr(subprocess, "run", never)
    shown = {"type": "image_url", "image_url": picture()}
    with ThreadPoolExecutor(20) as pool:
        body = {"messages": [{"role": "user", "content": [shown]}]}
        asked = [pool.submit(send, port, "/tokenize", body) for _ in range(20)]
        eventually(lambda: sum(each.done() for each in asked) == 2)
        assert ids_of(port, {"type": "text", "text": "A"})
        held.set()
    codes = Counter(each.result()[1]["error"]["code"] for each in asked)
    assert codes == {"queue_full": 2, "decode_time_exceeded": 18}


def test_no_more_is_decoded_than_the_context_holds(port, monkeypatch):
    decoded = []

    def forty_frames(command, **options):
        decoded.append(command)
        content = b'{"frames": 40}\n' + bytes(40 * 4 * 4 * 3)
        return subprocess.CompletedProcess(command, 0, stdout=content)

    monkeypatch.setattr(subprocess, "run", forty_frames)
    shown = [{"type": "image_url", "image_url": picture(side=side)} for side in range(1, 20)]
    status, answered = send(port, "/tokenize", {"messages": [{"role": "user", "content": shown}]})
    assert (status, answered["error"]["code"]) == (400, "context_length_exceeded")
    # Of 512 tokens, two of 40 frames of five tokens each fit.
    assert len(decoded) == 3


def test_a_decoder_ends_with_whoever_started_it():
    program = "\n".join(
        (
            "import time, ringworld.serving.decode_media as decoder",
            "decoder.read = lambda request: print('reads', flush=True) or time.sleep(600)",
            "decoder.main()",
        )
    )
    limits = json.dumps({"memory_bytes": 2**40, "cpu_seconds": 600})
    command = [sys.executable, "-c", program, limits]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as decoder:
        assert decoder.stdin is not None and decoder.stdout is not None
        assert decoder.stdout.readline() == b"reads\n"
        decoder.stdin.close()
        assert decoder.wait(60) == 1


def test_a_decoder_sees_no_secret_and_leaves_no_file(film, tmp_path, monkeypatch):
    monkeypatch.setenv("RINGWORLD_API_KEYS", "a-secret-key")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    media = Media(WORLD, limits=ServingLimits())
    files, run = [], subprocess.run

    def watched(command, **options):
        assert "a-secret-key" not in options["env"].values()
        files.extend(path.name for path in tmp_path.iterdir())
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", watched)
    assert media.codes(film, kind="video", field="file", deadline=Deadline(60)).shape[1] == 4
    wrong: list[tuple[bytes, Kind]] = [
        (b"\x00broken", "any"),
        (png(8), "video"),
        (film, "image"),
        (b"", "image"),
    ]
    for content, kind in wrong:
        with pytest.raises(InputError) as refused:
            media.codes(content, kind=kind, field="file", deadline=Deadline(60))
        assert refused.value.field == "file"
        assert str(tmp_path) not in str(refused.value)
    assert len(files) == 5
    assert os.listdir(tmp_path) == []
