"""Errors as OpenAI's clients read them.

| what | status | type | code |
|---|---|---|---|
| a field is wrong | 400 | invalid_request_error | |
| the prompt does not fit | 400 | invalid_request_error | context_length_exceeded |
| a field that is not supported | 400 | invalid_request_error | unsupported_parameter |
| no key, or another | 401 | authentication_error | invalid_api_key |
| a host that is not served | 403 | permission_error | |
| another model, or path | 404 | not_found_error | model_not_found |
| the body is too long | 413 | invalid_request_error | request_too_large |
| not JSON by its type | 415 | invalid_request_error | |
| the queue is full | 429 | rate_limit_error | queue_full |
| frames of another size | 400 | invalid_request_error | unsupported_size |
| more frames than may be | 400 | invalid_request_error | too_many_frames |
| a model of text alone is to see or draw | 400 | invalid_request_error | vision_not_supported |
| a picture or a film above a limit | 400 | invalid_request_error | too_many_pixels, video_too_long |
| an address that is not allowed, or cannot be fetched | 400 | invalid_request_error | address_not_fetched |
| its decoder needs too long | 400 | invalid_request_error | decode_time_exceeded |
| its decoder needs too much memory | 400 | invalid_request_error | decode_memory_exceeded |
| a file that there is not | 404 | not_found_error | file_not_found |
| as many requests are answered as may | 429 | rate_limit_error | too_many_requests |
| as many addresses are fetched as may | 429 | rate_limit_error | too_many_fetches |
| as many files are kept as may | 429 | rate_limit_error | too_many_files |
| the bodies of others leave no room | 429 | rate_limit_error | too_many_bytes |
| memories where there is no folder for them | 400 | invalid_request_error | memories_not_kept |
| a memory that is damaged, or another model's | 400 | invalid_request_error | memory_not_usable |
| a memory that there is not | 404 | not_found_error | memory_not_found |
| as many memories are kept as may | 429 | rate_limit_error | too_many_memories |
| a video that there is not | 404 | not_found_error | video_not_found |
| a video that is not drawn yet | 409 | invalid_request_error | video_not_ready |
| as many videos are kept as may | 429 | rate_limit_error | too_many_videos |
| it took too long | 504 | server_error | time_limit_exceeded |
| anything else | 500 | server_error | |
| the server stops | 503 | server_error | |
| the server is too busy to render a chat template | 503 | server_error | server_busy |
"""

import logging
from typing import Any

from starlette.responses import JSONResponse, Response

from ringworld.core.errors import Busy, InputError
from ringworld.inference.batches import TooLong
from ringworld.inference.engine.inbox import Closed
from ringworld.text.templates import RenderTimeout

_LOG = logging.getLogger("ringworld.serving")


class ApiError(Exception):
    """An error with a status."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        """Keep what a client reads."""
        super().__init__(message)
        self.status, self.message, self.kind, self.param, self.code = status, message, kind, param, code

    def to_json(self) -> dict[str, Any]:
        """Return the body of the response."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}


def unsupported(param: str, *, remedy: str = "leave it out") -> ApiError:
    """Return the error for a field that would be ignored, and should not be."""
    return ApiError(400, f"{param} is not supported; {remedy}", param=param, code="unsupported_parameter")


def refusal(error: BaseException) -> Response:
    """Return the response to a request that ended in an error."""
    found = api_error_of(error)
    headers = {"WWW-Authenticate": "Bearer"} if found.status == 401 else {}
    headers |= {"Retry-After": "1"} if found.status in (429, 503) else {}
    return JSONResponse(found.to_json(), status_code=found.status, headers=headers)


def api_error_of(error: BaseException) -> ApiError:
    """Return an error as clients see it; one of ours is logged, and shows them nothing of its inside."""
    found = _converted(error)
    if found.status == 500:
        _LOG.error("a request failed", exc_info=error)
    return found


def _converted(error: BaseException) -> ApiError:
    match error:
        case ApiError():
            return error
        case InputError(field="weights"):
            return ApiError(500, str(error), kind="server_error")
        case InputError(field="frame_tokenizer"):
            return ApiError(400, str(error), param="model", code="vision_not_supported")
        case TooLong():
            return ApiError(400, str(error), param="prompt", code="context_length_exceeded")
        case InputError():
            return ApiError(400, str(error), param=error.field or None)
        case Busy():
            return ApiError(429, str(error), kind="rate_limit_error", code="queue_full")
        case Closed():
            return ApiError(503, str(error), kind="server_error")
        case RenderTimeout():
            problem = f"the server is busy: {error}; ask again later"
            return ApiError(503, problem, kind="server_error", code="server_busy")
        case _:
            return ApiError(
                500, "the server has an error of its own, which its log shows", kind="server_error"
            )
