"""The programs of docs/data.md that bring other people's sets into our forms, on a few records of each."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ringworld.data.config import PrepareConfig
from ringworld.data.find_sources import find_sources
from ringworld.data.quarantine import Quarantined
from ringworld.data.samples import MediaFile, Sample

PAGE = Path(__file__).parents[2] / "docs/data.md"
CONFIG = PrepareConfig(held_out_fraction=0.0)


@pytest.fixture
def convert(tmp_path: Path, monkeypatch, capsys):
    """Run the program of the page that reads a file, on a file of these records."""

    def run(records: list[Any], *, name: str, to: str) -> list[Sample]:
        (program,) = (one for one in re.findall("```python\n(.*?)```", PAGE.read_text(), re.S) if name in one)
        by_line = name.endswith(".jsonl")
        content = "\n".join(map(json.dumps, records)) if by_line else json.dumps(records)
        monkeypatch.chdir(tmp_path)
        Path(name).write_text(content)
        exec(program, {})
        (folder := tmp_path / "in").mkdir(exist_ok=True)
        (folder / to).write_text(capsys.readouterr().out)
        bad: list[Quarantined] = []
        sources = find_sources(videos=(folder,), config=CONFIG, quarantined=bad)
        found = [
            sample
            for one in sources
            if one.reader.holds == "many" or to == "manifest.jsonl"
            for sample in one.reader.read(one, config=CONFIG, quarantined=bad)
        ]
        assert not [one for one in bad if to in one.path]
        return found

    return run


def shown(content: tuple) -> list[str]:
    return [f"{part.form} {part.path.name}" if isinstance(part, MediaFile) else part for part in content]


def test_ultrachat(convert):
    (talk,) = convert(
        [{"id": "0", "data": ["Who?", "Anna.", "Where?", "Here."]}], name="ultrachat.jsonl", to="a.jsonl"
    )
    assert [(turn.role, *turn.content) for turn in talk.turns] == [
        ("user", "Who?"),
        ("assistant", "Anna."),
        ("user", "Where?"),
        ("assistant", "Here."),
    ]


def test_sharegpt4v_llava_and_valley(convert, tmp_path: Path, write_clip):
    write_clip(tmp_path / "in/b/1.png")
    write_clip(tmp_path / "in/b/2.mp4")

    def said(*values: str) -> list[dict[str, str]]:
        return [{"from": ("human", "gpt")[i % 2], "value": value} for i, value in enumerate(values)]

    records = [
        {
            "id": "1",
            "image": "b/1.png",
            "conversations": said("<image>\nWhat is it?", "Grey.", "How?", "Dark."),
        },
        {"id": "2", "video": "b/2.mp4", "conversations": said("What happens?\n<video>", "Nothing.")},
        {"id": "3", "conversations": said("Who?", "Anna.")},
    ]
    talks = convert(records, name="sharegpt4v.json", to="a.jsonl")
    assert [[shown(turn.content) for turn in talk.turns] for talk in talks] == [
        [["image 1.png", "What is it?"], ["Grey."], ["How?"], ["Dark."]],
        [["What happens?", "video 2.mp4"], ["Nothing."]],
        [["Who?"], ["Anna."]],
    ]


def test_video_chatgpt(convert, tmp_path: Path, write_clip):
    for name in ("v_1", "v_2"):
        write_clip(tmp_path / f"in/{name}.mp4")
    records = [
        {"q": "What runs?", "a": "A dog.", "video_id": "v_1"},
        {"q": "Who?", "a": "Anna.", "video_id": "v_2"},
        {"q": "Where?", "a": "Here.", "video_id": "v_1"},
    ]
    first, second = convert(records, name="VideoInstruct_Dataset.json", to="manifest.jsonl")
    assert [(asked.question, asked.answer) for asked in first.questions] == [
        ("What runs?", "A dog."),
        ("Where?", "Here."),
    ]
    assert [asked.answer for asked in second.questions] == ["Anna."]
