"""Passages with their questions to conversations as long as a context."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from ringworld.data.qa.pairs import plain
from ringworld.data.qa.passages import Passage
from ringworld.data.samples import Question
from ringworld.text import chat


@dataclass(frozen=True, kw_only=True, slots=True)
class AskedPassage:
    """A passage with the question about it."""

    passage: Passage
    asked: Question | None
    """None where no usable one was written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JoinedConversation:
    """Consecutive passages of one document, and then the questions about them."""

    turns: tuple[tuple[chat.Role, str], ...]
    tokens: int
    """In the layout of `text.chat.conversation`."""

    @property
    def questions(self) -> int:
        """How many are asked."""
        return len(self.turns) // 2

    def to_json(self) -> dict[str, Any]:
        """Return the record that `prepare` reads; see `data.readers.messages`."""
        return {"messages": [{"role": role, "content": text} for role, text in self.turns]}


def conversations(
    passages: Sequence[AskedPassage],
    *,
    context_tokens: int,
    seed: str,
    count_tokens: Callable[[chat.Segments], int],
) -> Iterator[JoinedConversation]:
    """Join the passages of a document, in their order, to as few conversations as fit into a context.

    The first message of the user is the text of all passages with the first question, as `World.answer` asks
    about a document. Questions come in a random order, so that where an answer stands says nothing of where
    the next one does. A question that is asked of two passages with different answers is left out, as are
    conversations without any question, and a passage that is longer than a context with its question alone.

    Args:
        passages: of one document.
        context_tokens: longest conversation.
        seed: of the order of questions.
        count_tokens: how long a conversation is.
    """
    start = 0
    around = count_tokens(_laid([("user", chat.document_question("", "")), ("assistant", "")]))
    while start < len(passages):
        stop, tokens = start, around
        while (
            stop < len(passages) and tokens + (more := _cost(passages[stop], count_tokens)) <= context_tokens
        ):
            stop, tokens = stop + 1, tokens + more
        stop = max(stop, start + 1)
        made = _joined(passages[start:stop], f"{seed} {start}", count_tokens)
        # Words may have more tokens together than apart.
        while made is not None and made.tokens > context_tokens and stop > start + 1:
            stop -= 1
            made = _joined(passages[start:stop], f"{seed} {start}", count_tokens)
        if made is not None and made.tokens <= context_tokens:
            yield made
        start = stop


def _cost(one: AskedPassage, count_tokens: Callable[[chat.Segments], int]) -> int:
    if one.asked is None:
        return one.passage.tokens
    turn = chat.answered(chat.next_question(one.asked.question), one.asked.answer)
    return one.passage.tokens + count_tokens(turn)


def _joined(
    passages: Sequence[AskedPassage], seed: str, count_tokens: Callable[[chat.Segments], int]
) -> JoinedConversation | None:
    same: dict[str, list[Question]] = {}
    for one in passages:
        if one.asked is not None:
            same.setdefault(plain(one.asked.question), []).append(one.asked)
    once = [asked[0] for asked in same.values() if len({plain(one.answer) for one in asked}) == 1]
    if not once:
        return None
    Random(seed).shuffle(once)
    text = "".join(one.passage.text for one in passages).strip()
    turns: list[tuple[chat.Role, str]] = []
    for index, one in enumerate(once):
        question = one.question if index else chat.document_question(text, one.question)
        turns.append(("user", question))
        turns.append(("assistant", one.answer))
    return JoinedConversation(turns=tuple(turns), tokens=count_tokens(_laid(turns)))


def _laid(turns: Sequence[tuple[chat.Role, str]]) -> chat.Segments:
    return chat.conversation([(role, (text,)) for role, text in turns])
