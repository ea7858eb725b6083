import codecs
import json
from pathlib import Path

import pytest

from ringworld.core.errors import InputError
from ringworld.data.read_text import read_lines, read_text, strip_gutenberg

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
    with pytest.raises(InputError, match=r"a\.txt: got .*UTF-8 at byte 3.*iconv"):
        read(tmp_path / "a.txt", WORDS.encode("latin-1"))


@pytest.mark.parametrize("content", [b"", b" \n\t\n", codecs.BOM_UTF8])
def test_an_empty_file_is_refused(tmp_path: Path, content):
    with pytest.raises(InputError, match=r"a\.txt: got an empty file"):
        read(tmp_path / "a.txt", content)


def test_binary_missing_and_large_files_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="NUL at byte 1"):
        read(tmp_path / "a.txt", b"a\0b")
    with pytest.raises(InputError, match="No such file"):
        read_text(tmp_path / "b.txt", max_bytes=10)
    with pytest.raises(InputError, match="at most 1000"):
        read(tmp_path / "c.txt", b"a" * 1001)


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
        b'{"words": "x"}',
        b'{"text": "\xff"}',
        b'{"text": "\\ud800"}',
        b"[" * 100_000,
        b'{"text": "eight", "score": NaN}',
    ]
    path.write_bytes(b"\n".join(lines))
    read = list(read_lines(path))
    assert [line.text for line in read] == ["one", "", "", "", "", "", "eight"]
    assert [line.number for line in read] == [1, 2, 4, 5, 6, 7, 8]
    assert [problem.problem.split(" (")[0] for problem in read[1:-1]] == [
        "line 2 is not JSON",
        'line 4 has no "text" that is valid Unicode',
        "line 5 is not UTF-8",
        'line 6 has no "text" that is valid Unicode',
        "line 7 is not JSON",
    ]


def test_jsonl_without_one_usable_line_is_refused(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text("{\n")
    with pytest.raises(InputError, match="no line with text"):
        list(read_lines(path))
