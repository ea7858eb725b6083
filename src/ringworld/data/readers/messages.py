r"""Conversations in the form of OpenAI's API.

    {"messages": [
        {"role": "system", "content": "You answer in one word."},
        {"role": "user", "content": [
            {"type": "text", "text": "What color is the ball?"},
            {"type": "image_url", "image_url": {"url": "ball.png"}}]},
        {"role": "assistant", "content": "red"}]}

Videos are `{"type": "video_url", "video_url": {"url": "clip.mp4"}}`, as vLLM has it; `image` and `video`
with a path alone are read, too. Texts and clips of a message keep their order. What the assistant says
carries loss.
"""

from collections.abc import Iterator
from typing import Any, get_args

from ringworld.data.readers.location import Location
from ringworld.data.samples import MediaFile, MediaForm, Turn
from ringworld.text.chat import Role
from ringworld.text.read_text import is_text

_ROLES = get_args(Role)
_FORMS: dict[str, MediaForm] = {
    "image_url": "image",
    "image": "image",
    "video_url": "video",
    "video": "video",
}


def parse_messages(messages: Any, location: Location) -> tuple[Turn, ...]:
    """Return the turns of a conversation: perhaps a system's, then a user's and the assistant's in turn.

    A last turn of the user, which nobody answers, is left out.

    Raises:
        InputError: it is of another form, or without an answer; `field` names where.
    """
    if not isinstance(messages, list) or not messages:
        raise location.wrong("has no list of messages", field="messages", value=messages)
    turns = [_turn(message, f"messages[{i}]", location) for i, message in enumerate(messages)]
    said = turns[1:] if turns[0].role == "system" else turns
    for index, turn in enumerate(said):
        expected = ("user", "assistant")[index % 2]
        if turn.role != expected:
            field = f"messages[{index + len(turns) - len(said)}].role"
            problem = f"has a message of {turn.role} where one of {expected} belongs, in {field}"
            raise location.wrong(problem, field=field, value=turn.role)
    if turns[-1].role == "user":
        turns.pop()
    if turns[-1:] == [] or turns[-1].role != "assistant":
        raise location.wrong("has no message of assistant", field="messages")
    return tuple(turns)


def _turn(message: Any, field: str, location: Location) -> Turn:
    role: Any = message.get("role") if isinstance(message, dict) else None
    if role not in _ROLES:
        problem = f"has the role {role!r} in {field}, which is none of {', '.join(_ROLES)}"
        raise location.wrong(problem, field=f"{field}.role", value=role)
    content = message.get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list):
        raise location.wrong(
            f"has no text or list in {field}.content", field=f"{field}.content", value=content
        )
    turn = Turn(role=role, content=tuple(_parts(parts, f"{field}.content", location)))
    if turn.clips and role != "user":
        problem = f"has a picture in {field}, which is of {role}: captions teach a model to draw"
        raise location.wrong(problem, field=f"{field}.content", value=role)
    if not turn.content:
        raise location.wrong(f"has nothing in {field}.content", field=f"{field}.content", value=content)
    return turn


def _parts(parts: list[Any], field: str, location: Location) -> Iterator[str | MediaFile]:
    """Yield the texts of a message, but for blank ones, and its clips."""
    for index, part in enumerate(parts):
        here = f"{field}[{index}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            text = part.get("text")
            if not is_text(text):
                raise location.wrong(f"has no text in {here}", field=f"{here}.text", value=text)
            if text.strip():
                yield text.strip()
        elif isinstance(kind, str) and kind in _FORMS:
            address = part.get(kind)
            if isinstance(address, dict):
                address = address.get("url")
            yield location.media(address, field=f"{here}.{kind}", form=_FORMS[kind])
        else:
            problem = f"has a part of type {kind!r} in {here}, which is none of text, {', '.join(_FORMS)}"
            raise location.wrong(problem, field=f"{here}.type", value=kind)
