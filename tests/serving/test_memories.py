"""Memories over HTTP: kept, listed, used by the next start of a server, deleted; and what is refused."""

import json
from pathlib import Path

import pytest

from ringworld.inference.config import EngineConfig
from tests.serving.test_drawing import fetch
from tests.serving.test_server import TEXT, WORLD, picture, send, serving

SAID = [{"role": "user", "content": TEXT * 4}, {"role": "assistant", "content": "Right."}]
ASKED = [{"role": "user", "content": "Where?"}]
CONFIG = EngineConfig(max_sequences=2, chunk_tokens=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("memories")


@pytest.fixture(scope="module")
def port(folder):
    with (
        WORLD.engine(CONFIG) as engine,
        serving(engine, limits={"max_memories": 2}, memory_folder=folder) as found,
    ):
        yield found


def delete(port: int, id: str) -> int:
    return fetch(port, f"/v1/memories/{id}", method="DELETE")[0]


def answer(port: int, **body):
    asked = {"messages": ASKED, "max_tokens": 8, "temperature": 0, **body}
    status, answered = send(port, "/v1/chat/completions", asked)
    assert status == 200, answered
    return answered["choices"][0]["message"]["content"], answered["usage"]["prompt_tokens_details"][
        "cached_tokens"
    ]


def test_a_conversation_is_kept_and_continued_in_another_server(port, folder):
    status, kept = send(port, "/v1/memories", {"messages": SAID, "name": "A <b>circle</b>"})
    assert (status, kept["name"]) == (200, "A <b>circle</b>")
    expected, _ = answer(port, messages=[*SAID, *ASKED])
    assert answer(port, memory=kept["id"]) == (expected, kept["tokens"])
    with WORLD.engine(CONFIG) as engine, serving(engine, memory_folder=folder) as other:
        assert send(other, "/v1/memories")[1]["data"] == [kept]
        status, found = send(other, f"/v1/memories/{kept['id']}")
        assert [each["content"] for each in found["messages"]] == [each["content"] for each in SAID]
        assert answer(other, memory=kept["id"]) == (expected, kept["tokens"])
        whole = [*SAID, *ASKED, {"role": "assistant", "content": expected}]
        status, more = send(other, "/v1/memories", {"memory": kept["id"], "messages": whole[2:]})
        assert (status, more["tokens"] >= kept["tokens"]) == (200, True)
        counted = [{"messages": ASKED, "memory": kept["id"]}, {"messages": [*SAID, *ASKED]}]
        first, second = (send(other, "/tokenize", body)[1]["tokens"] for body in counted)
        assert first == second
        assert [delete(other, each) for each in (more["id"], kept["id"], kept["id"])] == [200, 200, 404]
    assert [*folder.iterdir()] == []


def test_what_was_shown_stands_in_its_place(port):
    shown = [{"type": "text", "text": "This"}, {"image_url": picture()}, {"type": "text", "text": "or what?"}]
    said = [{"role": "user", "content": shown}, SAID[0] | {"role": "assistant"}]
    _, kept = send(port, "/v1/memories", {"messages": said})
    _, found = send(port, f"/v1/memories/{kept['id']}")
    in_order = [shown[0], {"type": "image", "frames": 1}, shown[2]]
    assert [each["content"] for each in found["messages"]] == [in_order, SAID[0]["content"]]
    assert delete(port, kept["id"]) == 200


def test_no_path_is_a_memory(port, folder):
    (folder / "other").mkdir()
    (folder / "other" / "origin.json").write_text("{}")
    link = folder / f"memory_{'a' * 32}"
    link.symlink_to("other")
    for id in (
        "other",
        "..",
        "%2e%2e",
        "..%2fother",
        f"memory_{'0' * 32}",
        f"memory_{'0' * 32}%00",
        link.name,
    ):
        assert fetch(port, f"/v1/memories/{id}")[0] == 404
        assert delete(port, id) == 404
        status, answered = send(port, "/v1/chat/completions", {"messages": ASKED, "memory": id})
        assert (status, answered["error"]["code"]) == (404, "memory_not_found")
    assert (folder / "other" / "origin.json").exists()
    link.unlink()


def test_what_cannot_be_used_is_named_by_its_id_and_can_be_deleted(port, folder):
    _, kept = send(port, "/v1/memories", {"messages": SAID})
    span = folder / kept["id"] / "spans" / "00000.safetensors"
    span.write_bytes(span.read_bytes()[:-1])
    with WORLD.engine(CONFIG) as engine, serving(engine, memory_folder=folder) as other:
        status, answered = send(other, "/v1/chat/completions", {"messages": ASKED, "memory": kept["id"]})
        assert (status, answered["error"]["code"]) == (400, "memory_not_usable")
        message = answered["error"]["message"]
        assert f"{kept['id']}/spans/00000.safetensors" in message
        assert str(folder) not in message
    origin = folder / kept["id"] / "origin.json"
    changed = json.loads(origin.read_text())
    changed["identity"]["model"] = "another"
    origin.write_text(json.dumps(changed))
    assert send(port, "/v1/memories")[1]["data"] == []
    assert send(port, f"/v1/memories/{kept['id']}")[1]["error"]["code"] == "memory_not_usable"
    assert delete(port, kept["id"]) == 200


def test_memories_are_bounded_and_what_is_none_is_refused(port):
    kept = [send(port, "/v1/memories", {"messages": SAID})[1] for _ in range(2)]
    status, answered = send(port, "/v1/memories", {"messages": SAID})
    assert (status, answered["error"]["code"]) == (429, "too_many_memories")
    assert [delete(port, each["id"]) for each in kept] == [200, 200]
    for body in (
        {},
        {"messages": []},
        {"messages": [{"role": "user", "content": "x" * 9000}]},
    ):
        assert send(port, "/v1/memories", body)[0] == 400
    assert (
        send(port, "/v1/completions", {"prompt": "A", "memory": "m"})[1]["error"]["code"]
        == "unsupported_parameter"
    )


def test_without_a_folder_nothing_is_kept():
    with WORLD.engine(CONFIG) as engine, serving(engine) as port:
        assert send(port, "/v1/models")[1]["data"][0]["memories"] is False
        for body in (None, {"messages": SAID}):
            assert send(port, "/v1/memories", body)[1]["error"]["code"] == "memories_not_kept"
