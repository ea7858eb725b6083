"""A model as people use it: words, pictures and files in, words and pictures out."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, SupportsIndex, overload

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32, UInt8

from ringworld.core.errors import InputError
from ringworld.core.ranges import whole_number
from ringworld.inference.config import GenerationLimits, SamplingConfig, SamplingDefaults, WatchingConfig
from ringworld.inference.generator import Generator
from ringworld.inference.prompts import Ids, Prompts
from ringworld.inference.scorer import Scorer
from ringworld.model.decode import GenerationWeights
from ringworld.model.forward import Forward
from ringworld.text.read_text import read_text
from ringworld.vision.media import read_image
from ringworld.vision.sampling import fit_frames, read_spread

_MOST_BYTES = 2**28
"""Of a document; a million tokens are a few million bytes."""
Pictures = Path | str | UInt8[np.ndarray, "..."]
"""A file, or RGB arrays [height, width, 3] or [frames, height, width, 3] of any size."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TextScore:
    """How likely a text is."""

    token_nats: Float32[np.ndarray, " tokens"]
    """Negative log-likelihood of each token after those before it; the first follows `<s>`."""

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return len(self.token_nats)

    @property
    def mean_nats(self) -> float:
        """Mean over the tokens; `exp` of it is the perplexity."""
        return float(self.token_nats.mean(dtype=np.float64))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class World:
    """One model with its tokenizers on the devices of one mesh.

    Where a method leaves sampling out, the model's own defaults hold. The same seed and prompt give the same
    output, whatever else is asked in one call.

    Example:
        >>> world.complete("A red circle moves to the")
        >>> world.answer("What color is the shape?", video="clip.mp4")
        >>> world.draw("a red circle that moves to the right", frames=16)
    """

    prompts: Prompts
    """Words and frames to ids and back."""
    generator: Generator
    """Continues ids."""
    scorer: Scorer
    """Scores ids."""
    sampling: SamplingDefaults
    """How ids are drawn where the caller does not say."""
    watching: WatchingConfig
    """How videos are read."""

    @staticmethod
    def of(
        weights: GenerationWeights,
        *,
        forward: Forward,
        prompts: Prompts,
        mesh: Mesh,
        limits: GenerationLimits,
        sampling: SamplingDefaults | None = None,
        watching: WatchingConfig | None = None,
    ) -> "World":
        """Join the parts of one model.

        Args:
            weights: in the compute type, on `mesh`.
            forward: rotary frequencies of the stage that made them, and configuration.
            prompts: its tokenizers.
            mesh: as made by `core.mesh`.
            limits: the model's context, and how much is decoded at once.
            sampling: how ids are drawn where the caller does not say.
            watching: how videos are read.

        Raises:
            InputError: the parts do not belong together.
        """
        generator = Generator(
            weights,
            forward=forward,
            vocabulary=prompts.vocabulary,
            end=prompts.tokenizer.eos,
            mesh=mesh,
            limits=limits,
        )
        return World(
            prompts=prompts,
            generator=generator,
            scorer=Scorer(weights, forward=forward, mesh=mesh),
            sampling=sampling or SamplingDefaults(),
            watching=watching or WatchingConfig(),
        )

    @overload
    def complete(
        self,
        texts: str,
        *,
        max_new_tokens: SupportsIndex = 64,
        temperature: float | None = None,
        top_k: int | None = None,
        seed: int | None = None,
    ) -> str: ...

    @overload
    def complete(
        self,
        texts: Sequence[str],
        *,
        max_new_tokens: SupportsIndex = 64,
        temperature: float | None = None,
        top_k: int | None = None,
        seed: int | None = None,
    ) -> list[str]: ...

    def complete(
        self,
        texts: str | Sequence[str],
        *,
        max_new_tokens: SupportsIndex = 64,
        temperature: float | None = None,
        top_k: int | None = None,
        seed: int | None = None,
    ) -> str | list[str]:
        """Continue a text, or each of several; return only what is new.

        Raises:
            InputError: a text and what follows it do not fit into the context, or a number is out of range.
        """
        sampling = _sampling(self.sampling.text, temperature=temperature, top_k=top_k, seed=seed)
        prompts = [self.prompts.text(text) for text in _texts("texts", texts)]
        written = self.generator.generate(prompts, max_new_tokens=max_new_tokens, sampling=sampling)
        words = [self.prompts.words(ids) for ids in written]
        return words[0] if isinstance(texts, str) else words

    def answer(
        self,
        question: str,
        *,
        video: Pictures | None = None,
        image: Pictures | None = None,
        document: str | Path | None = None,
        answers: Literal["one", "several"] = "one",
        max_new_tokens: SupportsIndex = 64,
        temperature: float | None = None,
        top_k: int | None = None,
        seed: int | None = None,
    ) -> str:
        """Answer a question, alone or about one video, image or document.

        Args:
            question: what is asked.
            video: a file, or frames.
            image: a file, or one picture.
            document: a text, or the `pathlib.Path` of a text file.
            answers: of a document: whether one thing is asked for or several, which the prompt says.
            max_new_tokens: most tokens of the answer.
            temperature: divides the logits; 0 takes the likeliest token.
            top_k: draw among so many likeliest tokens; 0 keeps all.
            seed: of the draws.

        Raises:
            InputError: a file cannot be read, the question is about two things or does not fit into the
                context, or the model has no frame tokenizer.
        """
        if sum(about is not None for about in (video, image, document)) > 1:
            problem = "a question is about one video, image or document, not about several"
            raise InputError(problem, field="document", remedy="ask several questions")
        _text("question", question)
        if document is not None and not isinstance(document, Path):
            _text("document", document)
        if isinstance(document, str) and _names_a_file(document):
            problem = f"document is the text {document!r}, which is also the name of a file"
            raise InputError(
                problem, field="document", value=document, remedy="give a file as a pathlib.Path"
            )
        sampling = _sampling(self.sampling.answer, temperature=temperature, top_k=top_k, seed=seed)
        prompt = self.prompts.question(
            question,
            frames=self._frames(video=video, image=image),
            document=read_text(document, max_bytes=_MOST_BYTES) if isinstance(document, Path) else document,
            answers=answers,
        )
        return self.reply([prompt], max_new_tokens=max_new_tokens, sampling=sampling)[0]

    def reply(
        self, prompts: Sequence[Ids], *, max_new_tokens: SupportsIndex, sampling: SamplingConfig
    ) -> list[str]:
        """Answer questions that `prompts.question` made, all together.

        Raises:
            InputError: one does not fit into the context with its answer.
        """
        written = self.generator.generate(prompts, max_new_tokens=max_new_tokens, sampling=sampling)
        return [self.prompts.words(ids).strip() for ids in written]

    @overload
    def draw(
        self,
        captions: str,
        *,
        frames: SupportsIndex = 1,
        guidance_scale: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        seed: int | None = None,
    ) -> UInt8[np.ndarray, "frames side side 3"]: ...

    @overload
    def draw(
        self,
        captions: Sequence[str],
        *,
        frames: SupportsIndex = 1,
        guidance_scale: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        seed: int | None = None,
    ) -> list[UInt8[np.ndarray, "frames side side 3"]]: ...

    def draw(
        self,
        captions: str | Sequence[str],
        *,
        frames: SupportsIndex = 1,
        guidance_scale: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        seed: int | None = None,
    ) -> UInt8[np.ndarray, "frames side side 3"] | list[UInt8[np.ndarray, "frames side side 3"]]:
        """Draw a video of a caption, or of each of several; an image where `frames` is 1.

        Raises:
            InputError: the model has no frame tokenizer, `frames` is below 1, so many do not fit into the
                context, or a number is out of range.
        """
        self.prompts.seeing()
        count = whole_number("frames", frames, least=1, remedy="use 1 for an image")
        sampling = _sampling(
            self.sampling.image if count == 1 else self.sampling.video,
            guidance_scale=guidance_scale,
            temperature=temperature,
            top_k=top_k,
            seed=seed,
        )
        each = _texts("captions", captions)
        drawn = self.generator.generate_frames(
            [self.prompts.drawing(caption, frames=count) for caption in each],
            frames=count,
            sampling=sampling,
            unconditional=self.prompts.unconditional(),
        )
        pixels = [self.prompts.pixels(ids) for ids in drawn]
        return pixels[0] if isinstance(captions, str) else pixels

    def score(self, text: str) -> TextScore:
        """Return how likely a text is.

        Raises:
            InputError: it has no tokens.
        """
        ids = self.prompts.text(_text("text", text))
        if len(ids) == 1:
            raise InputError("a text without tokens has no score", field="text", value=text)
        return TextScore(token_nats=self.scorer.losses(ids))

    def _frames(
        self, *, video: Pictures | None, image: Pictures | None
    ) -> UInt8[np.ndarray, "frames side side 3"] | None:
        pictures = image if video is None else video
        if pictures is None:
            return None
        resolution = self.prompts.seeing().config.resolution
        if isinstance(pictures, np.ndarray):
            return fit_frames(pictures, resolution)
        if image is not None:
            return read_image(Path(pictures), resolution=resolution)[None]
        return read_spread(
            Path(pictures),
            most_frames=self.watching.max_frames,
            frames_per_second=self.watching.frames_per_second,
            resolution=resolution,
        )


def _texts(field: str, given: str | Sequence[str]) -> list[str]:
    several = isinstance(given, Iterable) and not isinstance(given, str | bytes | bytearray)
    return [_text(field, text) for text in (given if several else [given])]


def _text(field: str, text: Any) -> str:
    """Return a text as it is, or refuse what is no `str`."""
    if not isinstance(text, str):
        remedy = "decode it" if isinstance(text, bytes | bytearray) else ""
        problem = f"{field} holds {type(text).__name__}, not str"
        raise InputError(problem, field=field, value=text, remedy=remedy)
    return text


def _names_a_file(text: str) -> bool:
    try:
        return len(text) < 4096 and os.path.isfile(text)
    except ValueError:  # a zero byte
        return False


def _sampling(default: SamplingConfig, **given: float | int | None) -> SamplingConfig:
    return replace(default, **{name: value for name, value in given.items() if value is not None})
