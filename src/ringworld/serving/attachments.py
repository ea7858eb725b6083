"""Files that a request attaches: as `data:` addresses, by ids of what was sent, or by other addresses."""

import base64
import binascii

import numpy as np

from ringworld.core.errors import InputError
from ringworld.inference.config import WatchingConfig
from ringworld.serving.body import Body
from ringworld.serving.deadline import Deadline
from ringworld.serving.fetch import Fetch
from ringworld.serving.files import Files
from ringworld.serving.media import Kind, Media


class Attachments:
    """The files of one request; each call takes long, so make it in a thread."""

    def __init__(self, media: Media, *, files: Files, fetch: Fetch | None, deadline: Deadline) -> None:
        """Begin one; where `fetch` is None, nothing is fetched from elsewhere."""
        self._media, self._files, self._fetch, self._deadline = media, files, fetch, deadline

    def at(self, url: str, *, field: str) -> bytes:
        """Return what an address holds.

        Raises:
            InputError: it is no `data:` address in Base64, and no other is fetched.
            ApiError: as for `Fetch.fetch`.
        """
        if self._fetch is not None and url[:6].lower().startswith(("http:", "https:")):
            return self._fetch.fetch(url, field=field)
        scheme, _, rest = url.partition(",")
        if not scheme.startswith("data:") or not scheme.endswith(";base64"):
            raise InputError(
                f"{field} is no data: address in Base64, and this server fetches no other",
                field=field,
                value=url[:40],
                remedy="send the file itself, as data:image/png;base64,...",
            )
        try:
            return base64.b64decode(rest, validate=True)
        except (binascii.Error, ValueError):
            raise InputError(f"{field} is not Base64", field=field, value=url[:40]) from None

    def file(self, file: Body) -> bytes:
        """Return a file that was sent before, by its `file_id`, or that stands in `file_data`.

        Raises:
            InputError: as for `at`.
            ApiError: there is none.
        """
        if "file_id" in file:
            return self._files.content(file.text("file_id"))
        return self.at(file.text("file_data"), field=file.path("file_data"))

    def watching(self, body: Body) -> WatchingConfig:
        """Return how a request has films watched; see `Media.watching`."""
        return self._media.watching(body)

    def frames(self, content: bytes, *, kind: Kind, field: str) -> np.ndarray:
        """Return the frames of a picture or a film, watched as the model folder says; see `Media.frames`."""
        return self._media.frames(content, kind=kind, field=field, deadline=self._deadline)

    def codes(self, content: bytes, *, kind: Kind, field: str, watching: WatchingConfig) -> np.ndarray:
        """Return the codes of its frames, [frames, codes]; see `Media.codes`."""
        return self._media.codes(content, kind=kind, field=field, deadline=self._deadline, watching=watching)

    def remember(self, content: bytes, codes: np.ndarray) -> None:
        """Remember the codes of what the model drew; see `Media.remember`."""
        self._media.remember(content, codes)
