import json
from pathlib import Path

import pytest

from ringworld.core.errors import InputError
from ringworld.data.samples import Question
from ringworld.data.sidecars import (
    BESIDE_MEDIA,
    BESIDE_TEXT,
    FolderNames,
    Sidecar,
    parse_sidecar,
    read_sidecars,
    sidecars_of,
)


def sidecar_of(tmp_path: Path, content: str | bytes, *, name: str = "a.json") -> Sidecar:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_sidecars([path])


def test_a_sidecar_holds_caption_and_questions(tmp_path: Path):
    said = {"caption": " Red. ", "questions": [{"question": "Q? ", "answer": "A"}], "license": "none"}
    read = sidecar_of(tmp_path, json.dumps(said))
    assert read == Sidecar(caption="Red.", questions=(Question(question="Q?", answer="A"),))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_sidecars_are_decoded_as_documents_are(tmp_path: Path, encoding: str):
    assert sidecar_of(tmp_path, "Un café.\r\n".encode(encoding), name="a.txt") == Sidecar(caption="Un café.")
    assert sidecar_of(tmp_path, '{"caption": "Un café."}'.encode(encoding)) == Sidecar(caption="Un café.")


@pytest.mark.parametrize("empty", [None, "", " \n"])
def test_what_is_empty_is_as_good_as_absent(tmp_path: Path, empty: str | None):
    assert sidecar_of(tmp_path, json.dumps({"caption": empty, "questions": None})) == Sidecar()
    assert sidecar_of(tmp_path, empty or "", name="a.txt") == Sidecar()
    whole = {"question": "Q?", "answer": "A", "answers": empty if not empty else "one"}
    asked = [whole, {"question": "Q?", "answer": empty}, {"question": empty, "answer": "A"}]
    read = sidecar_of(tmp_path, json.dumps({"questions": asked}))
    assert read == Sidecar(questions=(Question(question="Q?", answer="A"),), unanswered=2)


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ("{", ""),
        ("[]", ""),
        ('{"caption": 3}', "caption"),
        ('{"questions": {}}', "questions"),
        ('{"messages": [{"role": "user", "content": "Hi"}]}', "messages"),
        ('{"questions": ["why"]}', "questions[0]"),
        ('{"questions": [null]}', "questions[0]"),
        ('{"questions": [{"question": "Q"}]}', "questions[0].answer"),
        ('{"questions": [{"question": "Q", "answer": "A"}, {"answer": "A"}]}', "questions[1].question"),
        ('{"questions": [{"question": "Q", "answer": 3}]}', "questions[0].answer"),
        ('{"questions": [{"question": "Q", "answer": "A", "answers": "many"}]}', "questions[0].answers"),
        ('{"questions": [{"question": "Q", "answer": "A", "answers": []}]}', "questions[0].answers"),
        ('{"caption": "\\ud800"}', "caption"),
        ("[" * 100_000, ""),
        (b"\xff\xff", ""),
    ],
)
def test_a_sidecar_of_another_form_is_refused_by_name(tmp_path: Path, content: str | bytes, field: str):
    with pytest.raises(InputError) as caught:
        sidecar_of(tmp_path, content)
    assert (caught.value.path, caught.value.field) == (tmp_path / "a.json", field)


def test_of_a_file_of_many_the_line_and_the_number_of_the_question_are_named(tmp_path: Path):
    asked = [{"question": "Q?", "answer": "A"}] * 12 + [{"question": "Q?", "answer": 5}]
    with pytest.raises(InputError) as caught:
        parse_sidecar({"questions": asked}, path=tmp_path, part="line 3")
    assert (caught.value.path, caught.value.field) == (tmp_path, "line 3.questions[12].answer")


def test_a_number_of_too_many_digits_is_refused_without_advice_about_python(tmp_path: Path):
    with pytest.raises(InputError) as caught:
        sidecar_of(tmp_path, f'{{"id": {"9" * 5000}}}')
    assert caught.value.path == tmp_path / "a.json" and "sys." not in str(caught.value)


def test_captions_and_questions_of_several_sidecars_are_joined(tmp_path: Path):
    said, text = tmp_path / "a.json", tmp_path / "a.txt"
    said.write_text(json.dumps({"questions": [{"question": "Q?", "answer": "A"}]}))
    text.write_text("A dog.")
    both = Sidecar(caption="A dog.", questions=(Question(question="Q?", answer="A"),))
    assert read_sidecars([said, text]) == both


@pytest.mark.parametrize(
    ("file", "suffixes", "others", "expected"),
    [
        ("B.MP4", BESIDE_MEDIA, ["B.TXT"], ["B.TXT"]),
        ("b.mp4", BESIDE_MEDIA, ["b.mp4.txt", "b.txt", "b.mp4.json"], ["b.mp4.json", "b.mp4.txt", "b.txt"]),
        ("b.mp4", BESIDE_MEDIA, ["B.txt", "b.txt"], ["b.txt"]),
        ("cafe\u0301.png", BESIDE_MEDIA, ["caf\u00e9.txt"], ["caf\u00e9.txt"]),
        ("b.txt", BESIDE_TEXT, ["b.JSON", "b.md"], ["b.JSON"]),
        ("b.mp4", BESIDE_MEDIA, ["c.txt", "b.srt"], []),
    ],
)
def test_what_belongs_to_a_file_by_its_name(
    file: str, suffixes: tuple[str, ...], others: list[str], expected: list[str]
):
    beside = FolderNames([Path(name) for name in (file, *others)])
    assert [path.name for path in sidecars_of(Path(file), suffixes, beside=beside)] == expected
