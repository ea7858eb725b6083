"""`/v1/files`: what is sent once and shown in many requests, in a folder that goes with the server."""

import asyncio
import secrets
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ringworld.serving.config import ServingLimits
from ringworld.serving.errors import ApiError
from ringworld.serving.form import Form, Upload
from ringworld.serving.gate import Gate


@dataclass(frozen=True, kw_only=True, slots=True)
class _File:
    name: str
    bytes: int
    purpose: str
    created: int


class Files:
    """The files of one server; names that others give them are shown, and never paths."""

    def __init__(self, gate: Gate, *, limits: ServingLimits) -> None:
        """Make the folder."""
        self._gate, self._limits = gate, limits
        self._folder = tempfile.TemporaryDirectory(prefix="ringworld-files-")
        self._files: dict[str, _File] = {}
        self._adding = threading.Lock()

    def routes(self) -> list[Route]:
        """Return the routes."""
        route = self._gate.route
        return [
            route("/v1/files", self._add, method="POST"),
            route("/v1/files", self._list),
            route("/v1/files/{id}", self._get),
            route("/v1/files/{id}", self._delete, method="DELETE"),
            route("/v1/files/{id}/content", self._content),
        ]

    def forget_old(self) -> None:
        """Delete the files that were kept as long as they may be."""
        oldest = time.time() - self._limits.keep_seconds
        for id, file in [*self._files.items()]:
            if file.created < oldest:
                self._forget(id)

    def close(self) -> None:
        """Delete all."""
        self._files.clear()
        self._folder.cleanup()

    def add(self, form: Form) -> dict[str, Any]:
        """Keep a file, and describe it.

        Raises:
            ApiError: there is none in the form, or as many are kept as may.
        """
        upload: Upload | None = form.files.get("file")
        if upload is None or not upload.content:
            raise ApiError(400, "file is missing or empty; send one as a part of the form", param="file")
        self.forget_old()
        id = f"file-{secrets.token_hex(16)}"
        file = _File(
            name=upload.name,
            bytes=len(upload.content),
            purpose=form.texts.get("purpose", "user_data")[:40],
            created=int(time.time()),
        )
        with self._adding:
            if len(self._files) >= self._limits.max_files:
                problem = f"{len(self._files)} files are kept, as many as may; delete one"
                raise ApiError(429, problem, kind="rate_limit_error", code="too_many_files")
            self._path(id).write_bytes(upload.content)
            self._files[id] = file
        return self._described(id, file)

    def _described(self, id: str, file: _File) -> dict[str, Any]:
        return {
            "id": id,
            "object": "file",
            "bytes": file.bytes,
            "created_at": file.created,
            "expires_at": int(file.created + self._limits.keep_seconds),
            "filename": file.name,
            "purpose": file.purpose,
        }

    def content(self, id: str) -> bytes:
        """Return what a file holds.

        Raises:
            ApiError: there is none.
        """
        self._find(id)
        try:
            return self._path(id).read_bytes()
        except FileNotFoundError:  # deleted since
            raise _unknown(id) from None

    async def _add(self, request: Request) -> Response:
        return JSONResponse(await asyncio.to_thread(self.add, await self._gate.form(request)))

    async def _list(self, request: Request) -> Response:
        self.forget_old()
        purpose = request.query_params.get("purpose")
        # A copy: files are added in other threads.
        kept = [*self._files.items()]
        data = [self._described(id, file) for id, file in kept if purpose in (None, file.purpose)]
        return JSONResponse({"object": "list", "data": data, "has_more": False})

    async def _get(self, request: Request) -> Response:
        id = request.path_params["id"]
        return JSONResponse(self._described(id, self._find(id)))

    async def _content(self, request: Request) -> Response:
        content = await asyncio.to_thread(self.content, request.path_params["id"])
        # Whatever it is, a browser saves it and runs nothing of it.
        headers = {"Content-Disposition": "attachment", "X-Content-Type-Options": "nosniff"}
        return Response(content, media_type="application/octet-stream", headers=headers)

    async def _delete(self, request: Request) -> Response:
        id = request.path_params["id"]
        self._find(id)
        self._forget(id)
        return JSONResponse({"id": id, "object": "file", "deleted": True})

    def _path(self, id: str) -> Path:
        return Path(self._folder.name) / id

    def _find(self, id: str) -> _File:
        self.forget_old()
        file = self._files.get(id)
        if file is None:
            raise _unknown(id)
        return file

    def _forget(self, id: str) -> None:
        # Two requests may end the same file at once.
        if self._files.pop(id, None) is not None:
            self._path(id).unlink(missing_ok=True)


def _unknown(id: str) -> ApiError:
    problem = f"there is no file {id!r:.80}"
    return ApiError(404, problem, kind="not_found_error", param="file_id", code="file_not_found")
