import base64
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ringworld.core.errors import InputError
from ringworld.data.config import PrepareConfig
from ringworld.data.quarantine import Quarantined
from ringworld.data.readers.location import Location
from ringworld.data.readers.lwm_fields import parse_fields
from ringworld.data.readers.messages import parse_messages
from ringworld.data.readers.records import LINES, PARQUET
from ringworld.data.samples import CodedClip, MediaFile, Part, Question, Sample, Turn
from ringworld.data.sources import Reader, Source

CONFIG = PrepareConfig(held_out_fraction=0.0)
ASKED = {"role": "user", "content": "Who?"}
SAID = {"role": "assistant", "content": "Anna."}


def read(path: Path, reader: Reader, *, config: PrepareConfig = CONFIG) -> tuple[list[Sample], list[str]]:
    """Return the samples of a file, and which of its records were quarantined."""
    bad: list[Quarantined] = []
    source = Source(path=path, relative=path.name, reader=reader)
    return list(reader.read(source, config=config, quarantined=bad)), [item.path for item in bad]


def location(tmp_path: Path) -> Location:
    return Location(tmp_path / "a.jsonl", part="line 3", scratch=tmp_path / "scratch")


def lines(path: Path, *records: Any) -> Path:
    path.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in records))
    return path


def test_a_line_is_a_document_a_conversation_or_as_lwm_laid_it_out(tmp_path: Path):
    path = lines(
        tmp_path / "a.jsonl",
        {"text": "One.", "questions": [{"question": "Q?", "answer": "A"}, {"question": "R?", "answer": ""}]},
        {"messages": [ASKED, SAID], "id": 3},
        {"fields": "[q],a", "q": "Why?", "a": "So."},
    )
    (document, conversation, fields), bad = read(path, LINES)
    assert bad == []
    assert document == Sample(
        key="a.jsonl#1",
        split="train",
        text="One.",
        questions=(Question(question="Q?", answer="A"),),
        unanswered=1,
    )
    assert conversation.turns == (
        Turn(role="user", content=("Who?",)),
        Turn(role="assistant", content=("Anna.",)),
    )
    assert fields.parts == (Part(content="Why?", loss=False), Part(content="So.", loss=True))


def test_bad_lines_are_quarantined_by_number_and_the_rest_is_read(tmp_path: Path):
    path = lines(
        tmp_path / "a.jsonl",
        {"text": "One."},
        "{",
        '["text"]',
        {"words": "x"},
        {"text": 3},
        {"text": " "},
        '{"text": "\\ud800"}',
        {"messages": []},
        {"fields": "a"},
        "[" * 100_000,
        {"text": "Two.", "questions": 3},
        {"text": "Three."},
    )
    samples, bad = read(path, LINES)
    assert [sample.text for sample in samples] == ["One.", "Three."]
    assert bad == [f"a.jsonl#{number}" for number in range(2, 12)]


def test_a_text_of_a_table_that_is_too_long_is_left_out(tmp_path: Path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["x" * 101, "short"]}), path)
    samples, bad = read(path, PARQUET, config=PrepareConfig(held_out_fraction=0.0, max_text_bytes=100))
    assert [sample.text for sample in samples] == ["short"] and bad == ["a.parquet#1"]


@pytest.mark.parametrize("reader", [LINES, PARQUET])
def test_a_file_without_one_usable_record_is_refused(tmp_path: Path, reader: Reader):
    path = tmp_path / "a"
    if reader is LINES:
        lines(path, "{")
    else:
        pq.write_table(pa.table({"words": ["x"]}), path)
    with pytest.raises(InputError) as refused:
        read(path, reader)
    assert refused.value.path == path


def test_a_table_is_read_row_by_row(tmp_path: Path):
    path = tmp_path / "a.parquet"
    records = [
        {"text": "One.", "messages": None},
        {"text": None, "messages": [ASKED, SAID]},
        {"text": None, "messages": None},
    ]
    pq.write_table(pa.Table.from_pylist(records), path)
    samples, bad = read(path, PARQUET)
    assert [(sample.key, sample.text, len(sample.turns)) for sample in samples] == [
        ("a.parquet#1", "One.", 0),
        ("a.parquet#2", None, 2),
    ]
    assert bad == ["a.parquet#3"]


def test_what_python_cannot_hold_is_read_only_where_it_is_asked_for(tmp_path: Path):
    path = tmp_path / "a.parquet"
    odd = pa.array([1, 1000], pa.timestamp("ns"))  # the first is no whole number of microseconds
    pq.write_table(pa.table({"text": ["One.", "Two."], "at": odd}), path)
    samples, bad = read(path, PARQUET)
    assert ([sample.text for sample in samples], bad) == (["One.", "Two."], [])
    pq.write_table(pa.table({"fields": ["at,[q]"] * 2, "q": ["Why?"] * 2, "at": odd}), path)
    with pytest.raises(InputError) as refused:
        read(path, PARQUET)  # the second holds no words in `at`
    assert refused.value.path == path


def test_null_is_as_absent_in_every_format(tmp_path: Path):
    record = {"text": "One.", "messages": None, "fields": None, "questions": None}
    (of_line,), bad = read(lines(tmp_path / "a.jsonl", record), LINES)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([record]), path)
    (of_row,), bad_rows = read(path, PARQUET)
    assert (of_line.text, of_row.text, bad, bad_rows) == ("One.", "One.", [], [])


def test_a_damaged_table_is_refused_by_name(tmp_path: Path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["word " * 50] * 500}), path, compression="none")
    whole = path.read_bytes()
    for damaged in (b"", b"PAR1", whole[:-30], whole[:40] + b"\xff" * 40 + whole[80:]):
        path.write_bytes(damaged)
        with pytest.raises(InputError) as refused:
            read(path, PARQUET)
        assert refused.value.path == path


def test_what_is_held_out_of_a_file_hangs_on_what_a_record_holds(tmp_path: Path):
    config = PrepareConfig(held_out_fraction=0.4)
    records = [{"messages": [{"role": "user", "content": f"{i % 20}?"}, SAID], "id": i} for i in range(40)]
    table = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(records), table)
    of_lines, _ = read(lines(tmp_path / "a.jsonl", *records), LINES, config=config)
    of_rows, _ = read(table, PARQUET, config=config)
    splits = [sample.split for sample in of_lines]
    assert splits[:20] == splits[20:] and set(splits) == {"train", "held_out"}
    assert [sample.split for sample in of_rows] == splits


def test_a_conversation_shows_pictures_by_path_and_as_data(tmp_path: Path, write_clip):
    image, video = write_clip(tmp_path / "a.png"), write_clip(tmp_path / "b c.mp4")
    encoded = base64.b64encode(image.read_bytes()).decode()
    (tmp_path / "scratch").mkdir()
    content = [
        {"type": "image_url", "image_url": {"url": "a.png"}},
        {"type": "text", "text": " What "},
        {"type": "text", "text": " "},
        {"type": "video_url", "video_url": {"url": "file://" + str(video).replace(" ", "%20")}},
        {"type": "text", "text": "is it?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}},
        {"type": "video", "video": "b c.mp4"},
    ]
    system = {"role": "system", "content": "Short."}
    turns = parse_messages([system, {"role": "user", "content": content}, SAID, ASKED], location(tmp_path))
    assert [turn.role for turn in turns] == ["system", "user", "assistant"]  # nobody answers the last
    said = [part.form if isinstance(part, MediaFile) else part for part in turns[1].content]
    assert said == ["image", "What", "video", "is it?", "image", "video"]
    shown = [clip for clip in turns[1].clips if isinstance(clip, MediaFile)]
    assert [clip.path.read_bytes() for clip in shown] == [
        path.read_bytes() for path in (image, video, image, video)
    ]


def user(*parts: Any) -> list[Any]:
    return [{"role": "user", "content": list(parts)}, SAID]


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ("hello", "messages"),
        ([ASKED], "messages"),
        ([{"role": "system", "content": "s"}], "messages"),
        ([3, SAID], "messages[0].role"),
        ([{"role": "bot", "content": "x"}, SAID], "messages[0].role"),
        ([SAID, ASKED], "messages[0].role"),
        ([ASKED, ASKED, SAID], "messages[1].role"),
        ([ASKED, {"role": "system", "content": "s"}, SAID], "messages[1].role"),
        ([{"role": "user", "content": None}, SAID], "messages[0].content"),
        ([{"role": "user", "content": " "}, SAID], "messages[0].content"),
        (user({"type": "text", "text": "\ud800"}), "messages[0].content[0].text"),
        (user({"type": "audio"}), "messages[0].content[0].type"),
        (user("text"), "messages[0].content[0].type"),
        (user({"type": {}}), "messages[0].content[0].type"),
        (user({"type": "image", "image": "no.png"}), "messages[0].content[0].image"),
        (user({"type": "image", "image": "pipe.png"}), "messages[0].content[0].image"),
        (user({"type": "image", "image": "scratch"}), "messages[0].content[0].image"),
        (user({"type": "image", "image": 3}), "messages[0].content[0].image"),
        (user({"type": "image_url", "image_url": {}}), "messages[0].content[0].image_url"),
        (user({"type": "image", "image": "https://a/b.png"}), "messages[0].content[0].image"),
        (user({"type": "image", "image": "data:image/png;base64,@"}), "messages[0].content[0].image"),
        (user({"type": "image", "image": "data:image/png;base64,é"}), "messages[0].content[0].image"),
        (user({"type": "image", "image": "file://[a"}), "messages[0].content[0].image"),
        (user({"type": "image", "image": "file://a%00"}), "messages[0].content[0].image"),
        (user({"type": "image", "image": "a" * 300}), "messages[0].content[0].image"),
        (user({"type": "video", "video": "a.png"}), "messages[0].content[0].video"),
        (
            [ASKED, {"role": "assistant", "content": [{"type": "image", "image": "a.png"}]}],
            "messages[1].content",
        ),
    ],
    ids=str,
)
def test_a_conversation_of_another_form_is_refused_by_line_and_field(
    tmp_path: Path, write_clip, messages: Any, field: str
):
    write_clip(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "scratch").mkdir()
    with pytest.raises(InputError) as refused:
        parse_messages(messages, location(tmp_path))
    assert (refused.value.path, refused.value.field) == (tmp_path / "a.jsonl", f"line 3.{field}")


def test_lwm_s_fields_are_laid_out_as_it_does(tmp_path: Path):
    record = {"fields": "[s+q],[vision],a", "s": "Be short.", "q": "What?", "a": "red", "vision": [3, 1]}
    question, clip, answer = parse_fields(record, location(tmp_path), seed="0")
    assert (question.content, question.loss, answer.content, answer.loss) == (
        "Be short. What?",
        False,
        "red",
        True,
    )
    assert isinstance(clip.content, CodedClip) and clip.content.codes == (3, 1) and not clip.loss
    several = record | {"fields": ["[q],a", "[a],q"]}
    drawn = {parse_fields(several, location(tmp_path), seed=str(seed))[0].content for seed in range(20)}
    assert drawn == {"What?", "red"}


@pytest.mark.parametrize(
    ("record", "field"),
    [
        ({"fields": ""}, "fields"),
        ({"fields": []}, "fields"),
        ({"fields": 3}, "fields"),
        ({"fields": "[a]", "a": "x"}, "fields"),
        ({"fields": "<|bos|>,a", "a": "x"}, "fields"),
        ({"fields": "a"}, "a"),
        ({"fields": "a", "a": 3}, "a"),
        ({"fields": "vision"}, "vision"),
        ({"fields": "vision", "vision": [True]}, "vision"),
        ({"fields": "vision", "vision": [[1]]}, "vision"),
    ],
    ids=str,
)
def test_fields_of_another_form_are_refused_by_name(tmp_path: Path, record: dict[str, Any], field: str):
    with pytest.raises(InputError) as refused:
        parse_fields(record, location(tmp_path), seed="0")
    assert (refused.value.path, refused.value.field) == (tmp_path / "a.jsonl", f"line 3.{field}")
