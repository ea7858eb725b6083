"""Bodies of `multipart/form-data` (RFC 7578): texts, and files as they were sent."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from email.parser import HeaderParser

from ringworld.serving.errors import ApiError

_MOST_PARTS = 64
_MOST_HEADER_BYTES = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """A file; its name is only shown, and never a path."""

    name: str
    content: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """What a form holds; of a name that stands in it twice, the last."""

    texts: Mapping[str, str]
    files: Mapping[str, Upload]


def parse_form(content_type: str, body: bytes) -> Form:
    """Cut a body at its boundary.

    Args:
        content_type: the header, which names the boundary.
        body: all of it.

    Raises:
        ApiError: it has no boundary, is cut, or has too many parts.
    """
    boundary = _header("content-type", content_type).get_param("boundary")
    if not isinstance(boundary, str) or not 0 < len(boundary) <= 70 or not boundary.isascii():
        raise _broken("names no boundary of 1 to 70 characters")
    # The first delimiter has no line end before it. No more is cut than is taken.
    before, *parts = (b"\r\n" + body).split(b"\r\n--" + boundary.encode(), _MOST_PARTS + 2)
    if len(parts) > _MOST_PARTS + 1:
        raise _broken(f"has more than {_MOST_PARTS} parts")
    if before.strip() or not parts or not parts.pop().startswith(b"--"):
        raise _broken("does not begin and end with its boundary")
    texts: dict[str, str] = {}
    files: dict[str, Upload] = {}
    for part in parts:
        head, blank, content = part.partition(b"\r\n\r\n")
        if not blank or len(head) > _MOST_HEADER_BYTES:
            raise _broken("has a part without a header, or with a long one")
        # Browsers write names in UTF-8, which the email package takes as text alone.
        headers = HeaderParser().parsestr(head.lstrip().decode("utf-8", "replace"))
        name = headers.get_param("name", header="content-disposition")
        if not isinstance(name, str):
            raise _broken("has a part without a name")
        try:
            file = headers.get_filename()
        except ValueError:  # in an encoding with a zero byte in its name, or one that replaces nothing
            raise _broken("has a file whose name cannot be read") from None
        if file is not None:
            files[name] = Upload(name=_shown(file), content=content)
            continue
        try:
            texts[name] = content.decode("utf-8")
        except UnicodeDecodeError:
            raise ApiError(400, f"{name!r:.40} is not UTF-8", param=name[:40]) from None
    return Form(texts=texts, files=files)


def _header(name: str, value: str) -> Message:
    message = Message()
    message[name] = value.replace("\r", " ").replace("\n", " ")
    return message


def _shown(name: str) -> str:
    """Return what may be shown of the name of a file: its last part, without what no line holds."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(letter for letter in last if letter.isprintable())[:200] or "file"


def _broken(problem: str) -> ApiError:
    return ApiError(400, f"the form {problem}", param="body")
