"""Text that arrives token by token: whole characters only, and nothing from a stop string on."""

from collections.abc import Callable, Sequence

_UNKNOWN = "\N{REPLACEMENT CHARACTER}"
"""What a decoder gives for bytes that are no character, or not a whole one yet."""
_MOST_PENDING = 8
"""Ids that are decoded again with each new one; a character of UTF-8 has four bytes."""


class TextStream:
    """Turns ids into text as they come.

    Text is held back while it may be half of a character or the beginning of a stop string.

    Example:
        With the stop string "END", the texts "a", " E", "N" and "DED" of four tokens come as "a", " ", "" and
        "", after which `stopped` is True and `text` is "a ".

    Attributes:
        text: all that was returned.
        stopped: whether a stop string has come.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], *, stop: Sequence[str] = ()) -> None:
        """Begin without ids.

        Args:
            decode: the text of ids.
            stop: strings that end the text, none empty.
        """
        self.text, self.stopped = "", False
        self._decode, self._stop = decode, stop
        self._ids: list[int] = []
        # Ids before `shown` have been decoded; those from `context` on are decoded again, since how an id is
        # decoded depends on the one before it.
        self._context = self._shown = 0
        self._held = ""

    def push(self, id: int) -> str:
        """Add an id, and return the text that is certain now; nothing after a stop."""
        if self.stopped:
            return ""
        self._ids.append(id)
        before = self._decode(self._ids[self._context : self._shown])
        now = self._decode(self._ids[self._context :])
        whole = len(self._ids)
        if now.endswith(_UNKNOWN) or len(now) <= len(before):
            if whole - self._shown <= _MOST_PENDING:
                return ""
            # So many are not one character: all are shown but those of the one that may still be coming.
            for end in range(whole - 1, whole - 4, -1):
                if (text := self._decode(self._ids[self._context : end])) == now[:-1]:
                    whole, now = end, text
                    break
        self._context, self._shown = self._shown, whole
        return self._give(now[len(before) :], last=False)

    def close(self) -> str:
        """Return what was held back, because nothing follows."""
        if self.stopped:
            return ""
        before = self._decode(self._ids[self._context : self._shown])
        rest = self._decode(self._ids[self._context :])[len(before) :]
        self._context = self._shown = len(self._ids)
        return self._give(rest, last=True)

    def _give(self, new: str, *, last: bool) -> str:
        text, self._held = self._held + new, ""
        found = [text.find(stop) for stop in self._stop if stop in text]
        if found:
            text, self.stopped = text[: min(found)], True
        elif not last:
            certain = len(text) - max((_begun(stop, text) for stop in self._stop), default=0)
            text, self._held = text[:certain], text[certain:]
        self.text += text
        return text


def _begun(stop: str, text: str) -> int:
    """Return how many characters at the end of a text a stop string may begin with."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if stop.startswith(text[-n:])), 0)
