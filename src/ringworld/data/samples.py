"""What one source says: a text, a clip with what is said of it, or a conversation, before any wording."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int

from ringworld.data.config import Split
from ringworld.text.chat import Content, Role

Codes = Int[np.ndarray, "frames codes"]


MediaForm = Literal["video", "image"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A question about a file, and its answer; neither is blank."""

    question: str
    answer: str
    answers: Literal["one", "several"] = "one"
    """Whether the answer names one thing or several."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaFile:
    """A video or an image, which is opened when its frames are wanted."""

    path: Path
    form: MediaForm
    holder: Path | None = None
    """The file out of which it was copied to be read, such as a tar; None of a file of the user's."""
    part: str = ""
    """Where in that it is, such as `entry 1.mp4`."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CodedClip:
    """Frames that another program has encoded already, with a frame tokenizer like ours."""

    codes: tuple[int, ...]
    """Of all frames, one after the other."""


Clip = MediaFile | CodedClip


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One message of a conversation."""

    role: Role
    content: tuple[str | Clip, ...]
    """Texts, videos and images, in their order."""

    @property
    def clips(self) -> tuple[Clip, ...]:
        """Its videos and images."""
        return tuple(part for part in self.content if not isinstance(part, str))

    @property
    def outline(self) -> tuple[Role, Content]:
        """Who speaks, and what is said; what `text.chat.conversation` lays out."""
        return self.role, tuple(part if isinstance(part, str) else None for part in self.content)


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A text or a clip as another program laid it out, all of which carries loss or nothing."""

    content: str | Clip
    loss: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """What recipes make examples of. Of `text`, `clip`, `turns` and `parts`, one is given."""

    key: str
    """Path below the folder that was named, and `#line` or `#entry` of a file that holds several samples."""
    split: Split
    text: str | None = None
    clip: Clip | None = None
    caption: str | None = None
    """Of the clip; never blank."""
    questions: tuple[Question, ...] = ()
    """About the text or the clip."""
    turns: tuple[Turn, ...] = ()
    parts: tuple[Part, ...] = ()
    unanswered: int = 0
    """Questions that were left out, since they or their answers are empty."""
    unasked: int = 0
    """Questions that were left out, since a part of the text is held out, which may hold the answers."""

    @property
    def clips(self) -> tuple[Clip, ...]:
        """All clips, in the order in which they are shown."""
        if self.clip is not None:
            return (self.clip,)
        shown = tuple(clip for turn in self.turns for clip in turn.clips)
        return shown + tuple(part.content for part in self.parts if not isinstance(part.content, str))

    @property
    def is_footage(self) -> bool:
        """Whether it is a clip of which nothing is said, so that it may be cut into several."""
        return self.clip is not None and self.caption is None and not self.questions
