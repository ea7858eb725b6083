"""Where in a file a record stands: what is wrong with it is said by file, line and field."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ringworld.core.errors import InputError
from ringworld.data.copies import named_as_held
from ringworld.data.samples import MediaFile, MediaForm
from ringworld.vision.media import media_format

_MOST_ENCODED_CHARACTERS = 2**30


class Location:
    """One record of a file, relative to whose folder it names other files."""

    def __init__(
        self, path: Path, *, part: str, scratch: Path, entries: Mapping[str, Path] | None = None
    ) -> None:
        """Take what a record is in.

        Args:
            path: the file.
            part: of it, such as `line 3`.
            scratch: a folder for media that the record holds.
            entries: copies of the entries of a tar that belong to the record, by name.
        """
        self.path, self.part, self._scratch = path, part, scratch
        self._entries = entries or {}
        self._written = 0

    def wrong(self, problem: str, *, field: str, value: Any = None, remedy: str = "") -> InputError:
        """Return the error for a field of this record."""
        where = f"in {self.path}, {self.part} {problem}"
        return InputError(where, path=self.path, field=f"{self.part}.{field}", value=value, remedy=remedy)

    def media(self, address: Any, *, field: str, form: MediaForm) -> MediaFile:
        """Return the video or image at an address: an entry beside the record, a path, `file://` or `data:`.

        Raises:
            InputError: it is none of these, there is no such file, or it is the other of both.
        """
        if not isinstance(address, str) or not address or "\0" in address:
            raise self.wrong(f"names no file in {field}", field=field, value=address)
        scheme = address.partition(":")[0].lower()
        if scheme in ("http", "https"):
            remedy = "download it and name the file"
            raise self.wrong(f"names an address in {field}", field=field, value=address, remedy=remedy)
        if address in self._entries:
            copy = self._entries[address]
            clip = MediaFile(path=copy, form=form, holder=self.path, part=f"entry {address}")
        elif scheme == "data":
            clip = MediaFile(
                path=self._decoded(address, field=field),
                form=form,
                holder=self.path,
                part=f"{self.part}, {field}",
            )
        else:
            clip = MediaFile(path=self._named(address, field=field, is_url=scheme == "file"), form=form)
        try:
            with named_as_held(clip):
                found = media_format(clip.path)
        except InputError as error:
            problem = f"has what cannot be used in {field} ({error.problem})"
            raise self.wrong(problem, field=field, remedy=error.remedy) from None
        if found != form:
            raise self.wrong(f"says {form} in {field}, where there is a {found}", field=field)
        return clip

    def _named(self, address: str, *, field: str, is_url: bool) -> Path:
        try:
            path = self.path.parent / (unquote(urlsplit(address).path) if is_url else address)
            is_file = path.is_file()  # a pipe would never end
        except (ValueError, OSError) as error:  # such as brackets that are left open, or too long a name
            raise self.wrong(f"names no file in {field} ({error})", field=field, value=address) from None
        if not is_file:
            raise self.wrong(f"names {path} in {field}, which is no file", field=field, value=address)
        return path

    def _decoded(self, address: str, *, field: str) -> Path:
        kind, comma, body = address.partition(",")
        if not comma or not kind.endswith(";base64") or len(body) > _MOST_ENCODED_CHARACTERS:
            problem = f"holds no data:...;base64, in {field}, or more than a gigabyte of it"
            raise self.wrong(problem, field=field)
        try:
            content = base64.b64decode(body, validate=True)
        except ValueError as error:
            raise self.wrong(f"holds no base64 in {field} ({error})", field=field) from None
        path = self._scratch / str(self._written)
        self._written += 1
        path.write_bytes(content)
        return path
