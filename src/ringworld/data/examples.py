"""One document, one captioned video, one conversation: token ids, and which of them carry loss."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int, Int32, UInt8

from ringworld.data.config import Kind, PrepareConfig
from ringworld.data.sources import Sidecar
from ringworld.text import chat
from ringworld.text.tokenizer import TextTokenizer
from ringworld.text.vocabulary import Vocabulary

# Of several clips each may have its own number of frames.
Codes = Int[np.ndarray, "_ codes"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Example:
    """Token ids and which of them carry loss, with where they come from."""

    tokens: Int32[np.ndarray, " tokens"]
    loss: Bool[np.ndarray, " tokens"]
    """True where the token is a target."""
    kind: Kind
    source: str
    """Path of the file relative to the folder it was found in, and what `Document.name` adds to it."""
    start_token: int = 0
    """Index of the first token within the whole document, or within all frames of the video."""

    def __len__(self) -> int:
        return len(self.tokens)

    def cut(self, *, start: int, stop: int) -> "Example":
        """Return the tokens from `start` up to `stop` (or to the end) as an example of their own."""
        return replace(
            self,
            tokens=self.tokens[start:stop],
            loss=self.loss[start:stop],
            start_token=self.start_token + start,
        )

    def followed_by(self, turn: "Example") -> "Example":
        """Return one example of these tokens and then those of a further turn."""
        return replace(
            self,
            tokens=np.concatenate([self.tokens, turn.tokens]),
            loss=np.concatenate([self.loss, turn.loss]),
        )


@runtime_checkable
class FrameEncoder(Protocol):
    """What preparation needs of `ringworld.vision.frame_tokenizer.FrameTokenizer`."""

    @property
    def resolution(self) -> int:
        """Side of a frame in pixels."""
        ...

    @property
    def fingerprint(self) -> str:
        """What changes when a weight does."""
        ...

    def encode(self, frames: UInt8[np.ndarray, "frames side side 3"]) -> Int32[np.ndarray, "frames codes"]:
        """Return the codes of each frame."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ExampleMaker:
    """Turns text and codes of frames into examples."""

    tokenizer: TextTokenizer
    vocabulary: Vocabulary
    config: PrepareConfig
    frame_tokenizer: FrameEncoder | None = None
    """None where all files are text."""

    def document(self, text: str, *, source: str) -> list[Example]:
        """Return a document as consecutive examples of at most `config.document_tokens`.

        Only the first begins with `<s>` and only the last ends with `</s>`: joined, they are the document. A
        blank one gives none.
        """
        if not text.strip():
            return []
        whole = self._encode(chat.document(text), kind="text", source=source)
        longest = self.config.document_tokens
        return [whole.cut(start=s, stop=s + longest) for s in range(0, len(whole), longest)]

    def document_questions(self, text: str, sidecar: Sidecar, *, source: str) -> tuple[list[Example], int]:
        """Return the document with the questions about it as one conversation, and how many were left out.

        Where `config.document_tokens` do not suffice for all of them, the document comes again with the rest.
        A longer document would lose a part, perhaps what holds the answer: its questions are left out.
        """
        made: list[Example] = []
        left_out = 0
        for asked in sidecar.questions:
            if made:
                turn = chat.answered(chat.next_question(asked.question), asked.answer)
                longer = made[-1].followed_by(self._encode(turn, kind="text_qa", source=source))
                if len(longer) <= self.config.document_tokens:
                    made[-1] = longer
                    continue
            prompt = chat.document_question_prompt(text, asked.question, answers=asked.answers)
            example = self._encode(chat.answered(prompt, asked.answer), kind="text_qa", source=source)
            if len(example) <= self.config.document_tokens:
                made.append(example)
            else:
                left_out += 1
        return made, left_out

    def captioned(self, codes: Codes, caption: str, *, source: str) -> list[Example]:
        """Return both orders: frames then caption, and caption then frames; and single frames as images.

        A part of the generation examples (`config.drop_caption_fraction`) has no caption, which is what
        guidance needs; which ones follows from the source and the seed.
        """
        understood = chat.answered(chat.caption_prompt(), caption)
        made = [self._encode(understood, kind="video_caption", source=source, codes=codes)]
        random = Random(f"{self.config.seed} {source}")
        made.append(self._generation(codes, caption, random, source=source))
        if len(codes) > 1:
            shown = random.sample(range(len(codes)), min(len(codes), self.config.images_per_video))
            made += [self._generation(codes[i : i + 1], caption, random, source=source) for i in shown]
        return made

    def video_questions(self, codes: Codes, sidecar: Sidecar, *, source: str) -> list[Example]:
        """Return the video or image with each question about it."""
        return [
            self._encode(
                chat.answered(chat.video_question_prompt(asked.question), asked.answer),
                kind="video_qa",
                source=source,
                codes=codes,
            )
            for asked in sidecar.questions
        ]

    def uncaptioned(self, windows: Sequence[Codes], *, source: str) -> list[Example]:
        """Return consecutive windows of a video about which nothing is known, an example each."""
        made, before = [], 0
        for codes in windows:
            example = self._encode(chat.uncaptioned_video(), kind="video", source=source, codes=codes)
            made.append(replace(example, start_token=before))
            before += len(codes) * self.vocabulary.frame_tokens
        return made

    def _generation(self, codes: Codes, caption: str, random: Random, *, source: str) -> Example:
        is_image = len(codes) == 1
        prompt = chat.generation_prompt(caption, kind="image" if is_image else "video")
        if random.random() < self.config.drop_caption_fraction:
            prompt = chat.unconditional_prompt()
        kind = "caption_image" if is_image else "caption_video"
        return self._encode(chat.generated(prompt), kind=kind, source=source, codes=codes)

    def _encode(
        self, segments: chat.Segments, *, kind: Kind, source: str, codes: Codes | None = None
    ) -> Example:
        encoded = chat.encode(
            segments,
            tokenizer=self.tokenizer,
            vocabulary=self.vocabulary,
            frames=() if codes is None else (codes,),
        )
        return Example(tokens=encoded.tokens, loss=encoded.loss, kind=kind, source=source)
