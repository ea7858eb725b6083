"""Words and frames to ids and back."""

from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Int, Int32, UInt8

from ringworld.core.errors import InputError
from ringworld.text import chat
from ringworld.text.templates import ChatTemplate, Message
from ringworld.text.tokenizer import TextTokenizer
from ringworld.text.vocabulary import Vocabulary
from ringworld.vision.frame_tokenizer import FrameTokenizer

Ids = Int32[np.ndarray, " _"]
Codes = Int[np.ndarray, "_ codes"]


class Prompts:
    """How a model is asked, with its tokenizers.

    Attributes:
        tokenizer: of text.
        vocabulary: which ids are text, and which codes.
        frame_tokenizer: of frames; None for a model of text alone.
        template: how questions are put; None is as LWM puts them, which ringworld trains on.
    """

    def __init__(
        self,
        tokenizer: TextTokenizer,
        *,
        vocabulary: Vocabulary,
        frame_tokenizer: FrameTokenizer | None,
        template: ChatTemplate | None = None,
    ) -> None:
        """Keep the tokenizers and the template.

        Raises:
            InputError: the ids or the codes of one do not fit into the vocabulary.
        """
        self.tokenizer, self.vocabulary, self.frame_tokenizer = tokenizer, vocabulary, frame_tokenizer
        self.template = template
        if tokenizer.size > vocabulary.text_size:
            raise InputError(
                f"a text tokenizer of {tokenizer.size} ids does not fit into {vocabulary.text_size} text ids",
                field="tokenizer",
                value=tokenizer.size,
                remedy="use the tokenizers that the model was trained with",
            )
        if frame_tokenizer is not None:
            config = frame_tokenizer.config
            made = config.codebook_size, config.codes_per_frame
            wanted = vocabulary.codes, vocabulary.codes_per_frame
            if made != wanted:
                raise InputError(
                    f"a frame tokenizer of {made[1]} codes a frame out of {made[0]} does not match a model "
                    f"of {wanted[1]} out of {wanted[0]}",
                    field="frame_tokenizer",
                    value=made,
                    remedy="use the tokenizers that the model was trained with",
                )

    def text(self, text: str) -> Ids:
        """Return `{text}`, to be continued, after `<s>` where the tokenizer adds it or there is no text."""
        ids = self.tokenizer.encode(text)
        begin = [self.tokenizer.bos] if self.tokenizer.adds_bos or not ids else []
        return np.array([*begin, *ids], np.int32)

    def scored(self, text: str) -> Ids:
        """Return `<s>{text}`, in which each token of the text follows another, so that each has a score."""
        return np.array([self.tokenizer.bos, *self.tokenizer.encode(text)], np.int32)

    def question(
        self,
        question: str,
        *,
        frames: UInt8[np.ndarray, "frames side side 3"] | None = None,
        document: str | None = None,
        answers: Literal["one", "several"] = "one",
    ) -> Ids:
        """Return a question, alone, about a video (or an image, of one frame) or about a document.

        Args:
            question: what is asked.
            frames: of the size of the frame tokenizer.
            document: a text.
            answers: of a document: whether one thing is asked for or several, which the prompt says.

        Raises:
            InputError: it is about two things, the frames have another size or no tokenizer, or the template
                does not work.
        """
        if frames is not None and document is not None:
            problem = "a question is about a video or about a document, not about both"
            raise InputError(problem, field="document", remedy="ask two questions")
        clips = () if frames is None else (self.seeing().encode(frames),)
        if document is not None:
            question = chat.document_question(document, question, answers=answers)
        if self.template is not None:
            return self.template.encode([Message(role="user", content=(question, *clips))])
        prompt = chat.video_question_prompt if clips else chat.question_prompt
        return self._encode(prompt(question), codes=clips)

    @cached_property
    def more_ends(self) -> tuple[int, ...]:
        """What ends an answer besides what ends any text.

        Raises:
            InputError: the template does not work.
        """
        return () if self.template is None else self.template.ends()

    def drawing(self, caption: str, *, frames: int, after: Codes | None = None) -> Ids:
        """Return what asks for a video of so many frames, or for an image where it is one.

        Frames `after` which they are drawn begin the video.
        """
        kind = "image" if frames == 1 and after is None else "video"
        return self._begun(self._encode(chat.generation_prompt(caption, kind=kind)), after)

    def unconditional(self, *, after: Codes | None = None) -> Ids:
        """Return what asks for any frames: guidance compares with it."""
        return self._begun(self._encode(chat.unconditional_prompt()), after)

    def words(self, ids: Ids) -> str:
        """Return the text of generated ids."""
        return self.tokenizer.decode(ids.tolist())

    def pixels(self, ids: Ids) -> UInt8[np.ndarray, "frames side side 3"]:
        """Return the frames of generated ids.

        Raises:
            InputError: they are not whole frames, or there is no frame tokenizer.
        """
        return self.seeing().decode(self.vocabulary.decode_frames(ids))

    def seeing(self) -> FrameTokenizer:
        """Return the frame tokenizer.

        Raises:
            InputError: there is none.
        """
        if self.frame_tokenizer is None:
            problem = "this model has no frame tokenizer, so it neither sees nor draws"
            raise InputError(problem, field="frame_tokenizer", remedy="use a model of video and text")
        return self.frame_tokenizer

    def _begun(self, prompt: Ids, after: Codes | None) -> Ids:
        """Return a prompt with frames that others follow.

        After `<vision>`, one frame of the codes 3 and 0 is `103 100` and the end of a frame, 108.
        """
        if after is None:
            return prompt
        given = self.vocabulary.encode_frames(after)
        given[-1] = self.vocabulary.eof
        return np.concatenate([prompt, given])

    def _encode(self, segments: chat.Segments, *, codes: Sequence[np.ndarray] = ()) -> Ids:
        return chat.encode(segments, tokenizer=self.tokenizer, vocabulary=self.vocabulary, clips=codes).tokens
