"""Memories by the engine and by conversations, between meshes; and what is refused."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ringworld.core.errors import InputError
from ringworld.core.files import sha256_file
from ringworld.core.origin import read_origin
from ringworld.inference.config import EngineConfig
from ringworld.inference.engine.keeping import keep, recall
from ringworld.inference.engine.sequence import GenerationRequest
from ringworld.inference.memory import Memory
from ringworld.inference.world import World
from ringworld.model.key_values import cut
from ringworld.text.templates import Message, joined
from tests.inference.tiny_world import make_world

CLIP = np.random.default_rng(0).integers(0, 6, (9, 4))
SAID = [
    Message(role="system", content=("Be brief.",)),
    Message(role="user", content=(CLIP[:2], "A red circle moves. " * 3, CLIP[2:])),
    Message(role="assistant", content=("It moves to the right.",)),
]
QUESTION = [Message(role="user", content=("Where is it? ",))]


def world(ring: int) -> World:
    return make_world(ring=ring).world


def engine(ring: int):
    return world(ring).engine(EngineConfig(max_sequences=2, chunk_tokens=64))


def request(new: int = 12) -> GenerationRequest:
    return GenerationRequest(prompt=world(1).template.encode(joined(SAID, QUESTION)), max_new_tokens=new)


def answer(made, asked: GenerationRequest) -> tuple[list[int], int]:
    """Return the ids, and how many of the prompt's were found in the cache."""
    pieces = list(made.stream(asked))
    return [piece.token.id for piece in pieces if piece.token], pieces[-1].reused_tokens


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> tuple[Path, list[int]]:
    """A memory of an engine on a ring of two, and how it answers."""
    folder = tmp_path_factory.mktemp("memories") / "film"
    with engine(2) as made:
        memory = world(2).keep(SAID, folder, engine=made, name="A film")
        ids, reused = answer(made, request())
        state = made.state
    assert (memory.name, len(memory.ids), reused) == ("A film", reused, reused)
    assert state.held_pages == 0
    return folder, ids


def copied(kept, tmp_path: Path) -> Path:
    folder = tmp_path / "film"
    for path in kept[0].rglob("*"):
        if path.is_file():
            target = folder / path.relative_to(kept[0])
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return folder


def test_what_an_engine_kept_is_recalled_on_another_mesh(kept):
    folder, expected = kept
    with engine(1) as made:
        memory = world(1).recall(folder, engine=made)
        ids, reused = answer(made, request())
        assert (ids, reused) == (expected, len(memory.ids))
        assert made.state.held_pages == 0
    for said, before in zip(memory.messages, SAID, strict=True):
        assert said.role == before.role
        for part, shown in zip(said.content, before.content, strict=True):
            np.testing.assert_array_equal(part, shown)


def test_keys_and_values_are_those_that_were_read(kept):
    with engine(2) as made:
        world(2).recall(kept[0], engine=made)
        read = made.state.read_tokens
        again = np.concatenate(
            [*keep(made, Memory.open(kept[0], model=world(2).generator.remembering).ids)], 2
        )
        # The last token of a prompt is read by a step, so that its page is read again.
        assert made.state.read_tokens - read < made.size.page_tokens
    memory = Memory.open(kept[0], model=world(1).generator.remembering)
    np.testing.assert_array_equal(again, np.concatenate([*memory.spans], axis=2))


def test_what_is_recalled_twice_or_was_read_meanwhile_is_there_once(kept):
    memory = Memory.open(kept[0], model=world(1).generator.remembering)
    with engine(1) as made:
        first = memory.ids[: made.size.page_tokens]
        list(made.stream(GenerationRequest(prompt=first, max_new_tokens=1)))
        for _ in range(2):
            assert recall(made, memory.ids, memory.spans) == len(memory.ids)
        assert recall(made, memory.ids, ()) == len(memory.ids)
        assert answer(made, request()) == (kept[1], len(memory.ids))
        assert made.state.held_pages == 0


def test_where_there_is_no_room_the_beginning_is_recalled_and_nothing_is_lost(kept):
    pages: list[int] = []
    memory = Memory.open(kept[0], model=world(1).generator.remembering)
    with engine(1) as made:
        # Others hold all but two of 32 pages of 32 tokens.
        for i, count in enumerate((14, 14, 2)):
            scheduler, held = made.hold((np.arange(32 * count + 1) % 250 + i).astype(np.int32), check=print)
            pages += held
        assert recall(made, memory.ids, memory.spans) == 64 < len(memory.ids)
        made.between_rounds(lambda _, __: scheduler.pages.release(pages))
        assert answer(made, request()) == (kept[1], 64)


def test_a_conversation_is_continued_where_it_was_kept_on_another_mesh(kept, tmp_path):
    chat = world(2).chat(max_new_tokens=6)
    chat.add_document("A red circle moves to the right. " * 4)
    before = chat.keep(tmp_path / "book")
    first = "".join(chat.ask("Why?"))
    after = chat.keep(tmp_path / "book", name="A book")
    assert (before.name, after.name) == ("book", "A book")
    assert len(after.ids) > len(before.ids)
    second = "".join(chat.ask("Who?"))
    other = world(1).chat(max_new_tokens=6)
    assert "".join(other.ask("Red?"))
    memory = other.reopen(tmp_path / "book")
    assert other.messages == [*memory.messages]
    assert other.messages[-1].text == first.strip()
    assert "".join(other.ask("Who?")) == second
    assert other.last_answer is not None
    assert other.last_answer.read_tokens == other.last_answer.prompt_tokens - len(memory.ids)
    # What an engine kept is a conversation too.
    memory = other.reopen(kept[0])
    list(other.ask(QUESTION[0].text))
    assert other.last_answer.read_tokens == other.last_answer.prompt_tokens - len(memory.ids)


def test_a_question_about_a_document_alone_belongs_to_its_message(tmp_path):
    book = "A red circle moves to the right. " * 4
    chat, other = world(1).chat(max_new_tokens=6), world(1).chat(max_new_tokens=6)
    for each in (chat, other):
        each.add_document(book)
    chat.keep(tmp_path / "book")
    chat.reset()
    chat.reopen(tmp_path / "book")
    assert "".join(chat.ask("Why?")) == "".join(other.ask("Why?"))
    assert chat.last_answer is not None and chat.last_answer.read_tokens < 60


def test_a_conversation_outlives_a_memory_that_is_damaged(kept, tmp_path):
    folder = copied(kept, tmp_path)
    flip(folder / "spans" / "00000.safetensors")
    chat, other = world(1).chat(max_new_tokens=6), world(1).chat(max_new_tokens=6)
    for each in (chat, other):
        list(each.ask("Red?"))
    with pytest.raises(InputError):
        chat.reopen(folder)
    assert "".join(chat.ask("Why?")) == "".join(other.ask("Why?"))


def test_what_cannot_be_kept_is_refused(tmp_path):
    chat = world(1).chat()
    with pytest.raises(InputError) as empty:
        chat.keep(tmp_path / "none")
    chat.add_clip(CLIP)
    with pytest.raises(InputError) as unasked:
        chat.keep(tmp_path / "none")
    few = [Message(role="system", content=("A",)), Message(role="user", content=("B",))]
    with engine(1) as made, pytest.raises(InputError) as short:
        world(1).keep(few, tmp_path / "none", engine=made)
    assert {each.value.field for each in (empty, unasked, short)} == {"messages"}
    assert [*tmp_path.iterdir()] == []
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    chat.reset()
    chat.add_document("A red circle moves. " * 9)
    with pytest.raises(InputError) as taken:
        chat.keep(tmp_path / "other")
    assert taken.value.path == tmp_path / "other"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def rewrite(path: Path) -> None:
    path.write_text(path.read_text().replace("Be brief.", "Be evil!!"))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("spans/00000.safetensors", flip),
        ("spans/00000.safetensors", lambda path: os.truncate(path, 1000)),
        ("spans/00000.safetensors", Path.unlink),
        ("context.safetensors", flip),
        ("context.safetensors", Path.unlink),
        ("memory.json", rewrite),
        ("memory.json", Path.unlink),
        ("origin.json", lambda path: path.write_text("{")),
    ],
)
def test_damage_is_refused_by_the_file_and_leaves_nothing_behind(kept, tmp_path, name, damage):
    folder = copied(kept, tmp_path)
    damage(folder / name)
    with engine(1) as made:
        with pytest.raises(InputError) as refused:
            world(1).recall(folder, engine=made)
        assert refused.value.path == folder / name
        state = made.state
        assert (state.held_pages, state.running) == (0, 0)
        assert answer(made, request(1)) == (kept[1][:1], 0)


def test_another_model_is_refused(kept, tmp_path):
    remembering = world(1).generator.remembering
    for changed in (
        replace(remembering, fingerprint="0" * 32),
        replace(remembering, fingerprint=""),
    ):
        with pytest.raises(InputError) as refused:
            Memory.open(kept[0], model=changed)
        assert (refused.value.field, refused.value.path) == ("model", kept[0] / "origin.json")
    with pytest.raises(InputError) as refused:
        world(1).chat().reopen(tmp_path)
    assert refused.value.path == tmp_path


def test_a_rounded_memory_is_one_for_rounded_caches_alone(kept, tmp_path):
    rounded = EngineConfig(max_sequences=2, chunk_tokens=64, cache_type="int8")
    with world(1).engine(rounded) as made:
        memory = world(1).keep(SAID, tmp_path / "film", engine=made)
        expected, _ = answer(made, request())
        for folder in kept[0], tmp_path / "film":
            origin = read_origin(folder, kind="memory").identity
            assert origin["cache_type"] == ("compute" if folder == kept[0] else "int8")
        with pytest.raises(InputError) as whole:
            world(1).recall(kept[0], engine=made)
    with world(1).engine(rounded) as made:
        world(1).recall(tmp_path / "film", engine=made)
        assert answer(made, request()) == (expected, len(memory.ids))
    with engine(1) as made, pytest.raises(InputError) as other:
        world(1).recall(tmp_path / "film", engine=made)
    with pytest.raises(InputError) as spoken:
        world(1).chat().reopen(tmp_path / "film")
    assert {each.value.field for each in (whole, other, spoken)} == {"cache_type"}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"spans": [{"tokens": 1}]}, "context.safetensors"),
        ({"messages": []}, "context.safetensors"),
        ({"name": 3}, "memory.json"),
    ],
)
def test_contents_that_do_not_go_together_are_refused(kept, tmp_path, change, name):
    """Checksums that were made anew, too, put nothing of another shape into a cache."""
    folder = copied(kept, tmp_path)
    path, origin = folder / "memory.json", folder / "origin.json"
    contents, identity = json.loads(path.read_text()), json.loads(origin.read_text())
    if "spans" in change:
        change = {"spans": [contents["spans"][0] | change["spans"][0]]}
    path.write_text(json.dumps(contents | change))
    identity["identity"]["memory"] = sha256_file(path)
    origin.write_text(json.dumps(identity))
    with pytest.raises(InputError) as refused:
        Memory.open(folder, model=world(1).generator.remembering)
    assert refused.value.path == folder / name


def test_a_fingerprint_is_that_of_all_meshes_and_of_one_model():
    one, two = (world(ring).generator.remembering.fingerprint for ring in (1, 2))
    assert one == two
    assert len(one) == 32


def test_a_memory_is_a_folder_of_ours(kept):
    origin = read_origin(kept[0], kind="memory")
    assert origin.identity["model"] == world(1).generator.remembering.fingerprint


def test_runs_are_cut_again():
    tokens = np.arange(28).reshape(1, 2, 14, 1, 1)
    spans = np.split(tokens, (5, 10), axis=2)
    assert [span.shape[2] for span in cut(spans, multiple=4)] == [4, 4, 4]
    whole = np.concatenate([*cut(spans, multiple=4)], axis=2)
    np.testing.assert_array_equal(whole, tokens[:, :, :12])
    assert [*cut(spans[:1], multiple=8)] == []
