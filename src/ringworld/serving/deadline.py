"""How long one HTTP request may take, from its first byte to its last."""

import time

from ringworld.serving.errors import ApiError


class Deadline:
    """The time that is left for one request, of which fetching, decoding, reading and writing all take."""

    def __init__(self, seconds: float) -> None:
        """Begin now."""
        self._seconds, self._until = seconds, time.monotonic() + seconds

    @property
    def left_seconds(self) -> float:
        """0 where it is over."""
        return max(0.0, self._until - time.monotonic())

    def over(self) -> ApiError:
        """Return the error of a request that was not finished by then."""
        problem = f"it was not finished within {self._seconds:g} s; ask for less at once"
        return ApiError(504, problem, kind="server_error", code="time_limit_exceeded")
