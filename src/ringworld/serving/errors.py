"""Errors as OpenAI's clients read them; the page on serving has the table of their codes."""

import logging
from typing import Any

from starlette.responses import JSONResponse, Response

from ringworld.core.errors import Busy, InputError, RenderTimeout
from ringworld.inference.batches import TooLong
from ringworld.inference.engine.inbox import Closed

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
            return ApiError(500, _message(error), kind="server_error")
        case InputError(field="frame_tokenizer"):
            return ApiError(400, _message(error), param="model", code="vision_not_supported")
        case TooLong():
            return ApiError(400, _message(error), param="prompt", code="context_length_exceeded")
        case InputError():
            return ApiError(400, _message(error), param=error.field or None)
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


def _message(error: InputError) -> str:
    """Return what is wrong; a file by its name alone, since clients do not see where it lies."""
    return str(error) if error.path is None else str(error).replace(str(error.path), error.path.name)
