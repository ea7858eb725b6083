import codecs
import json
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringworld.core.errors import InputError
from ringworld.text.read_text import read_lines, read_text, runs_of_lines, strip_gutenberg

WORDS = "caf\u00e9\nna\u00efve\n"


def read(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return read_text(path, max_bytes=1000)


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
)
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_every_mark_and_every_line_end_gives_the_same_text(tmp_path: Path, mark, encoding, line_end):
    content = mark + WORDS.replace("\n", line_end).encode(encoding)
    assert read(tmp_path / "a.txt", content) == WORDS


def test_another_encoding_is_refused_with_file_byte_and_remedy(tmp_path: Path):
    with pytest.raises(InputError) as caught:
        read(tmp_path / "a.txt", WORDS.encode("latin-1"))
    assert (caught.value.path, caught.value.value) == (tmp_path / "a.txt", 3)
    assert caught.value.suggested in caught.value.remedy


@pytest.mark.parametrize("content", [b"", b" \n\t\n", codecs.BOM_UTF8])
def test_an_empty_file_is_refused(tmp_path: Path, content):
    with pytest.raises(InputError) as caught:
        read(tmp_path / "a.txt", content)
    assert caught.value.path == tmp_path / "a.txt"


def test_binary_missing_and_large_files_are_refused(tmp_path: Path):
    for name, content in (("a.txt", b"a\0b"), ("b.txt", None), ("c.txt", b"a" * 1001)):
        with pytest.raises(InputError) as caught:
            read_text(tmp_path / name, max_bytes=10) if content is None else read(tmp_path / name, content)
        assert caught.value.path == tmp_path / name


def test_a_device_without_an_end_is_refused_and_a_pipe_is_read():
    with pytest.raises(InputError) as caught:
        read_text(Path("/dev/zero"), max_bytes=2**20)
    assert caught.value.path == Path("/dev/zero") and caught.value.value > 2**20
    reader, writer = os.pipe()
    os.write(writer, b"A book.")
    os.close(writer)
    assert read_text(Path(f"/dev/fd/{reader}"), max_bytes=100) == "A book."
    os.close(reader)


@pytest.mark.parametrize("encoding", ["utf-16-le", "latin-1"])
def test_the_remedy_for_an_encoding_is_a_command_that_works(tmp_path: Path, encoding: str):
    with pytest.raises(InputError) as caught:
        read(tmp_path / "a book.txt", WORDS.encode(encoding))
    subprocess.run(caught.value.suggested, shell=True, check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a book.txt"]  # beside its sidecars, as before
    assert (tmp_path / "a book.txt").read_text(encoding="utf-8") == WORDS


BOOK = """The Project Gutenberg EBook of Peace

*** START OF THIS PROJECT GUTENBERG EBOOK WAR
AND PEACE ***


Well, Prince.

The end.



End of the Project Gutenberg EBook of Peace
*** END OF THIS PROJECT GUTENBERG EBOOK WAR AND PEACE ***
License.
"""


def test_of_a_gutenberg_file_only_the_book_is_left():
    assert strip_gutenberg(BOOK) == "Well, Prince.\n\nThe end.\n"
    today = BOOK.replace("THIS", "THE").replace("End of the Project Gutenberg EBook of Peace\n", "")
    assert strip_gutenberg(today) == "Well, Prince.\n\nThe end.\n"
    assert strip_gutenberg("A book about Project Gutenberg.") == "A book about Project Gutenberg."


def test_broken_lines_of_jsonl_say_why_and_the_rest_is_read(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    lines = [
        codecs.BOM_UTF8 + json.dumps({"text": "one"}).encode(),
        b"{",
        b"",
        b'["text"]',
        b'{"text": "\xff"}',
        b"[" * 100_000,
        b'{"text": "eight", "score": NaN}',
    ]
    path.write_bytes(b"\n".join(lines))
    read = list(read_lines(path, longest=200_000))
    assert [line.number for line in read] == [1, 2, 4, 5, 6, 7]
    assert [bool(line.problem) for line in read] == [False, True, True, True, True, False]
    assert [read[0].value, read[-1].value["text"]] == [{"text": "one"}, "eight"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_lines_are_decoded_as_documents_are(tmp_path: Path, encoding: str):
    path = tmp_path / "a.jsonl"
    # The second letter has a byte that is an end of line elsewhere.
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in (WORDS, "\u010a\u0a0a")]
    path.write_bytes("\r\n".join(lines).encode(encoding))
    assert [line.value["text"] for line in read_lines(path, longest=100)] == [WORDS, "\u010a\u0a0a"]


def test_a_line_that_is_too_long_is_left_out_and_the_rest_is_read(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": "x" * length}) for length in (1, 500, 88, 89, 2)]
    path.write_text("\n".join(lines))  # the longest that is read has 100 characters
    assert [(line.number, len(line.value.get("text", ""))) for line in read_lines(path, longest=100)] == [
        (1, 1),
        (2, 0),
        (3, 88),
        (4, 0),
        (5, 2),
    ]


@given(
    st.lists(
        st.sampled_from(['{"a": 1}', "", "\r", "{", '{"b": "' + "x" * 40 + '"}', "\u2028\ufeff{}"]),
        max_size=30,
    ),
    st.integers(1, 200),
    st.booleans(),
    st.booleans(),
)
def test_runs_of_lines_hold_each_line_once_with_its_number(
    tmp_path_factory: pytest.TempPathFactory, lines, most_bytes, is_marked, is_ended
):
    path = tmp_path_factory.getbasetemp() / "runs.jsonl"
    path.write_text("\ufeff" * is_marked + "\n".join(lines) + "\n" * is_ended, newline="")
    runs = list(runs_of_lines(path, most_bytes=most_bytes))
    of_runs = [line for run in runs for line in read_lines(path, longest=30, run=run)]
    assert of_runs == list(read_lines(path, longest=30))
    ends = [run.start_byte for run in runs[1:]] + [path.stat().st_size]
    assert all(end - run.start_byte >= most_bytes for run, end in zip(runs[:-1], ends))


def test_a_file_of_megabytes_is_divided_where_lines_end(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": "x" * (n % 999)}) + "\n" for n in range(6000)))
    runs = list(runs_of_lines(path, most_bytes=700_000))
    assert [run.before for run in runs] == [sum(one.lines for one in runs[:n]) for n in range(len(runs))]
    assert 4 <= len(runs) <= 5 and sum(run.lines for run in runs) == 6000
    content = path.read_bytes()
    assert all(content[: run.start_byte].count(b"\n") == run.before for run in runs)
    assert all(content[run.start_byte - 1] == 10 for run in runs[1:])
