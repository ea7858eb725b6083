"""Damaged and hostile files for `preparation.py`: changed bytes, and what keeps to a format's grammar."""

import io
import json
import random
import shutil
import tarfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ringworld.data.readers.manifest import MANIFEST_NAME

TALK = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Anna."}]
ASKED = [{"question": "Who?", "answer": "Anna.", "answers": "one"}]
_LONG_NUMBER = "@number"
"""Stands for a number of more digits than Python reads."""
HOSTILE: tuple[Any, ...] = (
    *(None, True, -1, 2**63, 10**400, 1e308, float("nan"), float("inf"), _LONG_NUMBER),
    *("", " \n", "\0", "\ud800", "\u202e\ufeff", "a" * 300, "word " * 5000, "<|bos|>", "<image>", "several"),
    *(
        "../../x.png",
        "/dev/zero",
        "/proc/self/mem",
        ".",
        "file://[a",
        "file://a%00",
        "file:///etc",
        "http://a/b",
    ),
    *("data:image/png;base64,é", "data:image/png;base64,AAAA", "data:,", "data:" + "," * 300),
    *([], {}, [[]], [None], {"url": None}, {"type": "text"}, [3] * 1000, [True, False], [2**40], "[a],[b]"),
)


def originals_of(inputs: Path, folder: Path) -> list[Path]:
    """Return whole files of each format, of at most a megabyte."""
    folder.mkdir()
    found = [path for path in sorted(inputs.rglob("*")) if path.is_file() and path.stat().st_size < 2**20]
    picture = picture_of(inputs)
    records = [{"text": f"Document {i} of some words."} for i in range(20)] + [{"messages": TALK}] * 5
    fields = {"fields": "[q],[vision],a", "q": "What?", "a": "It.", "vision": [3] * 256}
    lines = folder / "a.jsonl"
    lines.write_text("\n".join(map(json.dumps, [*records, fields])))
    table = folder / "a.parquet"
    pq.write_table(pa.Table.from_pylist([{"text": one.get("text")} for one in records]), table)
    said = folder / "set" / MANIFEST_NAME
    said.parent.mkdir()
    shutil.copy(picture, said.parent)
    said.write_text(json.dumps({"file": picture.name, "caption": "A picture."}))
    bundle = folder / "a.tar"
    with tarfile.open(bundle, "w") as tar:
        add(tar, tarfile.TarInfo("1.jpg"), picture.read_bytes())
        add(tar, tarfile.TarInfo("1.txt"), b"A caption.")
        add(tar, tarfile.TarInfo("2.json"), json.dumps({"messages": TALK}).encode())
    return [*found, lines, table, said, bundle]


def picture_of(inputs: Path) -> Path:
    """Return a picture of at most a megabyte."""
    found = (path for path in sorted(inputs.rglob("*")) if path.suffix in (".jpg", ".png"))
    return next(path for path in found if path.stat().st_size < 2**20)


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Change, cut, double or move a part of some bytes."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 3, 30))):
        at, length = draw.randrange(len(changed) or 1), draw.choice((1, 8, 400))
        match draw.choice(("random", "zero", "cut", "double", "end")):
            case "random":
                changed[at : at + length] = draw.randbytes(len(changed[at : at + length]))
            case "zero":
                changed[at : at + length] = bytes(len(changed[at : at + length]))
            case "cut":
                del changed[at : at + length]
            case "double":
                changed[at:at] = changed[at : at + length]
            case "end":
                del changed[max(at, len(changed) // 2) :]
    return bytes(changed)


def lines(folder: Path, name: str, draw: random.Random, picture: Path) -> None:
    """Write JSON lines of which some hold what no reader expects, in places that a reader looks at."""
    records = [
        {"text": "A document of some words.", "questions": ASKED},
        {"messages": [{"role": "system", "content": "Short."}, *TALK]},
        {"fields": "[s+q],[vision],a", "s": "Short.", "q": "What?", "a": "It.", "vision": [3] * 256},
    ]
    told = [_line(_twisted(draw.choice(records), draw), draw) for _ in range(10)]
    (folder / f"{name}.jsonl").write_text("\n".join([json.dumps(records[0]), *told]))


def conversations(folder: Path, name: str, draw: random.Random, picture: Path) -> None:
    """Write conversations about a picture, with roles, parts and addresses of any form."""
    shutil.copy(picture, folder / picture.name)
    shown = [
        {"type": "image_url", "image_url": {"url": picture.name}},
        {"type": "video", "video": picture.name},
        {"type": "text", "text": "What is it?"},
    ]
    asked = {"role": "user", "content": draw.sample(shown, draw.randint(1, 3))}
    told = [
        _line(_twisted({"messages": [asked, TALK[1]] * draw.randint(1, 3)}, draw), draw) for _ in range(5)
    ]
    (folder / f"{name}.jsonl").write_text("\n".join([json.dumps({"messages": TALK}), *told]))


def columns(folder: Path, name: str, draw: random.Random, picture: Path) -> None:
    """Write a table with columns of types that no text has, some of them under the names that are read."""
    odd: tuple[Callable[[], pa.Array], ...] = (
        lambda: pa.array([1, None, 2**62], pa.timestamp("ns")),
        lambda: pa.array([2**50, 1, -(2**50)], pa.timestamp("s")),
        lambda: pa.array([1, 999, None], pa.duration("ns")),
        lambda: pa.array([b"\xff\xfe", b"", None], pa.binary()),
        lambda: pa.array([b"\xff\xfe", b"", None], pa.binary()).view(pa.string()),
        lambda: pa.array(["a", "b", "a"]).dictionary_encode(),
        lambda: pa.array(["word " * 10_000, None, ""], pa.large_string()),
        lambda: pa.array([["a"], [], None], pa.list_(pa.string())),
        lambda: pa.array([[("a", 1)], [], None], pa.map_(pa.string(), pa.int64())),
        lambda: pa.array([TALK, [{"role": None, "content": None}], None]),
        lambda: pa.array([[TALK], [], None]),
        lambda: pa.array([ASKED, [{"question": None, "answer": None}], []]),
        lambda: pa.nulls(3),
        lambda: pa.array([1, None, 3]),
        lambda: pa.array([0.5, float("nan"), None], pa.float16()),
        lambda: pa.array([True, False, None]),
        lambda: pa.array(["[q],a", "a,[q]", ","]),
    )
    names = ["text", "messages", "questions", "fields", "vision", "q", "a", "text", "\0", "é" * 300]
    chosen = draw.sample(names, draw.randint(1, 4))
    arrays = [pa.array(["A text.", "Another.", None])] + [draw.choice(odd)() for _ in chosen]
    table = pa.Table.from_arrays(arrays, names=[draw.choice(("text", "q")), *chosen])
    pq.write_table(
        table,
        folder / f"{name}.parquet",
        compression=draw.choice(("none", "snappy", "zstd", "gzip")),
        row_group_size=draw.choice((1, 2, 100)),
        use_dictionary=draw.choice((True, False)),
        data_page_version=draw.choice(("1.0", "2.0")),
    )


def headers(folder: Path, name: str, draw: random.Random, picture: Path) -> None:
    """Write a tar whose PAX headers, names, kinds and sizes say what nobody should."""
    values = ("x,y", "-1", "9" * 30, "nan", "1e400", "", "a" * 10_000, "\n", "é", "0,512", "../../x.png")
    keys = ("GNU.sparse.map", "GNU.sparse.size", "GNU.sparse.realsize", "GNU.sparse.major", "GNU.sparse.name")
    keys += ("path", "size", "mtime", "uid", "linkpath", "hdrcharset", "comment", "SCHILY.xattr.a")
    names = (
        "1.jpg",
        "1.txt",
        "1.json",
        "a/b.c/2.png",
        "../3.txt",
        "/4.json",
        ".",
        "..",
        "5",
        "6." + "x" * 300,
    )
    kinds = (tarfile.REGTYPE,) * 6 + (
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.FIFOTYPE,
        tarfile.GNUTYPE_SPARSE,
    )
    contents = (
        picture.read_bytes(),
        b"A caption.",
        _line(_twisted({"messages": TALK}, draw), draw).encode(),
        b"",
    )
    with tarfile.open(folder / f"{name}.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        add(tar, tarfile.TarInfo("0.txt"), b"A document.")
        for _ in range(draw.randint(1, 6)):
            member = tarfile.TarInfo(draw.choice(names))
            member.type, member.linkname = draw.choice(kinds), draw.choice(names)
            chosen = draw.sample(keys, draw.randint(0, 2))
            member.pax_headers = {key: draw.choice(values) for key in chosen}
            add(tar, member, draw.choice(contents))


def sidecars(folder: Path, name: str, draw: random.Random, picture: Path) -> None:
    """Write a picture with what is said of it, beside it or in a manifest."""
    (folder / name).mkdir()
    shutil.copy(picture, folder / name)
    said = {"file": picture.name, "caption": "A picture.", "questions": ASKED}
    beside = draw.choice((MANIFEST_NAME, f"{picture.stem}.json"))
    (folder / name / beside).write_text(_line(_twisted(said, draw), draw))


GRAMMARS = (lines, conversations, columns, headers, sidecars)


def add(tar: tarfile.TarFile, member: tarfile.TarInfo, content: bytes) -> None:
    """Append a member."""
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _twisted(value: Any, draw: random.Random) -> Any:
    """Return a value of JSON with one to three of its parts replaced, left out, doubled or wrapped."""
    root = {"": deepcopy(value)}
    for _ in range(draw.randint(1, 3)):
        parts = list(_parts(root))
        holder, key = draw.choice(parts)
        match draw.choice(("replaced", "replaced", "left out", "doubled", "wrapped")):
            case "replaced":
                holder[key] = deepcopy(draw.choice(HOSTILE))
            case "left out" if holder is not root:
                del holder[key]
            case "doubled" if isinstance(holder, list):
                holder.insert(key, deepcopy(holder[key]))
            case _:
                holder[key] = draw.choice(([holder[key]], {"text": holder[key]}))
    return root[""]


def _parts(holder: Any) -> Any:
    """Yield each part of a value, as what holds it and its key there."""
    items = holder.items() if isinstance(holder, dict) else enumerate(holder)
    for key, value in list(items):
        yield holder, key
        if isinstance(value, (dict, list)):
            yield from _parts(value)


def _line(value: Any, draw: random.Random) -> str:
    """Return JSON as other programs write it, now and then with depth, a key twice or a torn end."""
    text = json.dumps(value).replace(json.dumps(_LONG_NUMBER), "9" * 5000)
    match draw.randrange(12):
        case 0:
            return "[" * 100_000
        case 1 if text.startswith('{"'):
            return text[:-1] + ", " + text[1:]
        case 2:
            return text[: draw.randrange(len(text))]
        case 3:
            return json.dumps({"text": value}).replace(json.dumps(_LONG_NUMBER), "9" * 5000)
    return text
