"""The wording that asks for a question and its answer, and what makes a reply usable."""

import re
from dataclasses import dataclass
from typing import Literal

from ringworld.data.samples import Question

_PROMPT = """\
Below is a passage of a long document. Write one question that this passage answers, for somebody who has \
read the whole document, and write the answer.

* The question names the people, places and things that it asks about. It does not mention a passage, an \
excerpt or a text.
* The answer is short and in words of the passage. It is more than yes or no.
* Use the language of the passage.

Write two lines and nothing else:
Question: ...
Answer: ...

Passage:

"""
# Without a choice of where a blank belongs: thousands of line ends would be tried in all ways.
_FORM = re.compile(r"\**question\**:\**\s*(\S[^\n]*)\n\s*\**answer\**:\**\s*(\S.*)", re.I | re.S)
_SELF_REFERENCE = re.compile(r"\b(?:passage|excerpt|(?:the|this) (?:text|section|document))\b", re.I)
_RUN = 5
"""Characters of an answer that are looked for in the passage together."""
_LEAST_FOUND = 0.6
_MOST_QUESTION_CHARACTERS, _MOST_ANSWER_CHARACTERS, _MOST_REPLY_CHARACTERS = 400, 800, 4000
_MARKS = ("?", "？", "؟", ";")
"""With which questions end; the last in Greek."""

Rejected = Literal[
    "not a question and an answer",
    "about a passage",
    "not answered by its passage",
    "refused by the endpoint",
]
"""Why a reply is not used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A reply that is a question with its answer, or why it is not used."""

    asked: Question | None = None
    rejected: Rejected | None = None


def prompt(passage: str) -> str:
    """Return what asks for a question about a passage."""
    return _PROMPT + passage.strip()


def pair_of(reply: str, *, passage: str) -> Pair:
    """Read a reply, and check its form and whether the answer is found in the passage.

    | reply | used |
    |---|---|
    | `Question: Who saw Anna?` and on the next line `Answer: The guard` | yes |
    | without these lines, or with more of them; the first without a question mark | no |
    | a question about "the passage", which in a long context is one of many | no |
    | an answer with a number that the passage has not, or of other words than the passage's | no |

    An answer is of the passage's words where three fifths of its runs of five characters stand in the
    passage, whatever its case and blanks; one that is shorter must stand there as it is.
    """
    found = _FORM.fullmatch(reply.strip()) if len(reply) <= _MOST_REPLY_CHARACTERS else None
    question, answer = (part.strip() for part in found.groups()) if found else ("", "")
    if (
        not question.endswith(_MARKS)
        or _FORM.search(answer)
        or len(question) > _MOST_QUESTION_CHARACTERS
        or len(answer) > _MOST_ANSWER_CHARACTERS
    ):
        return Pair(rejected="not a question and an answer")
    if _SELF_REFERENCE.search(question):
        return Pair(rejected="about a passage")
    if not _is_answered(answer, passage):
        return Pair(rejected="not answered by its passage")
    return Pair(asked=Question(question=question, answer=answer))


def plain(text: str) -> str:
    """Return letters and digits in lower case, with one blank between words."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def _is_answered(answer: str, passage: str) -> bool:
    said, shown = plain(answer), plain(passage)
    numbers, known = (re.findall(r"\d+", text) for text in (said, shown))
    if not said or not set(numbers) <= set(known):
        return False
    runs = [said[i : i + _RUN] for i in range(max(1, len(said) - _RUN + 1))]
    return sum(run in shown for run in runs) >= _LEAST_FOUND * len(runs)
