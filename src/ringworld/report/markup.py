"""The few pieces of HTML that the report is made of; every one escapes the text that it is given."""

import base64
from collections.abc import Iterable, Sequence
from html import escape as text
from pathlib import Path

from ringworld.core.errors import InputError

_MEDIA_TYPES = {".mp4": "video/mp4", ".png": "image/png", ".jpg": "image/jpeg"}


def section(name: str, *parts: str) -> str:
    """Return a section under a heading; a section of nothing is nothing."""
    body = "\n".join(part for part in parts if part)
    return f'<section id="{anchor(name)}">\n<h2>{text(name)}</h2>\n{body}\n</section>\n' if body else ""


def anchor(name: str) -> str:
    """Return the id of a section."""
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower())


def paragraph(words: str, *, kind: str = "") -> str:
    """Return a paragraph of plain words."""
    return f"<p{_class(kind)}>{text(words)}</p>"


def table(
    titles: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numbers: Sequence[int] = (),
    total: Sequence[str] = (),
) -> str:
    """Return a table of plain text with the columns `numbers` set to the right, and a last row `total`.

    No titles are shown where all are empty.
    """

    def cells(row: Sequence[str], tag: str) -> str:
        kinds = ["number" if column in numbers else "" for column in range(len(row))]
        return "".join(f"<{tag}{_class(kind)}>{text(cell)}</{tag}>" for kind, cell in zip(kinds, row))

    body = "\n".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    if not body:
        return ""
    above = f"<thead><tr>{cells(titles, 'th')}</tr></thead>" if any(titles) else ""
    below = f"<tfoot><tr>{cells(total, 'td')}</tr></tfoot>" if total else ""
    return f'<div class="scroll"><table>{above}<tbody>\n{body}\n</tbody>{below}</table></div>'


def folded(label: str, content: str) -> str:
    """Return HTML that the reader opens by its label; nothing for nothing."""
    return f"<details><summary>{text(label)}</summary>{content}</details>" if content else ""


def figure(content: str, *, caption: str = "") -> str:
    """Return a figure whose content is HTML already and whose caption is plain text."""
    below = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    return f"<figure>{content}{below}</figure>"


def group(parts: Iterable[str], *, kind: str) -> str:
    """Return parts that stand beside one another where there is room."""
    body = "\n".join(part for part in parts if part)
    return f'<div class="{kind}">{body}</div>' if body else ""


def image(path: Path, *, alt: str) -> str:
    """Return an image whose bytes stand in the page."""
    return f'<img src="{data_uri(path)}" alt="{text(alt)}">'


def video(path: Path, *, label: str) -> str:
    """Return a video whose bytes stand in the page, which plays at once, in a loop, without sound."""
    return (
        f'<video controls loop muted autoplay playsinline aria-label="{text(label)}" src="{data_uri(path)}">'
        "</video>"
    )


def data_uri(path: Path) -> str:
    """Return a media file as a `data:` address.

    Raises:
        InputError: the file is missing, or is no MP4, PNG or JPEG by its name.
    """
    if path.suffix not in _MEDIA_TYPES or not path.is_file():
        fault = "is no MP4, PNG or JPEG by its name" if path.is_file() else "does not exist"
        problem = f"{path} {fault}, but the report shows it"
        raise InputError(problem, path=path, remedy="run the command that makes it again")
    return f"data:{_MEDIA_TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def number(value: float | None, *, digits: int = 2) -> str:
    """Return a number as a reader wants it, thousands apart; a dash for none."""
    return "\N{EN DASH}" if value is None else f"{value:,.{digits}f}"


def rate(per_second: float) -> str:
    """Return a large number a second with three digits and its prefix: `1.23 M`, `45.6 G`, `789 T`."""
    prefixes = ("", "k", "M", "G", "T", "P", "E")
    power = 0
    while per_second >= 999.5 and power < len(prefixes) - 1:
        per_second /= 1000
        power += 1
    digits = 2 if per_second < 9.995 else 1 if per_second < 99.95 else 0
    return f"{per_second:.{digits}f} {prefixes[power]}".rstrip()


def percent(share: float) -> str:
    """Return a share in percent."""
    return f"{100 * share:.0f} %"


def duration(seconds: float) -> str:
    """Return a time: `0.42 s`, `12 s`, `3 min 05 s` or `2 h 14 min`."""
    whole = round(seconds)
    if seconds < 9.95:
        return f"{seconds:.2g} s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
