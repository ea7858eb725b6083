"""The engine: prompts, images and videos in; text, images and videos out."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float32, Int, Int32, UInt8

from ringworld.core.errors import InputError
from ringworld.core.fingerprint import fingerprint
from ringworld.core.sharding import BATCH_AXES, SEQ_AXES
from ringworld.inference.batching import PromptBatch, batches
from ringworld.inference.config import GREEDY, EngineConfig, SamplingConfig
from ringworld.inference.generate import Request, generate
from ringworld.inference.grammar import Grammar, frame_grammar, text_grammar
from ringworld.model.arrange import PlacedRow, arrange, placed_rows
from ringworld.model.cache import padded_length
from ringworld.model.config import ModelConfig
from ringworld.model.cross_entropy import token_losses
from ringworld.model.decode import GenerationWeights
from ringworld.model.world_model import WorldModel, hidden
from ringworld.text import chat
from ringworld.text.tokenizer import TextTokenizer
from ringworld.text.vocabulary import Vocabulary
from ringworld.vision.frame_tokenizer import FrameTokenizer

_NO_BASE = 10_000.0
Prompt = Int32[np.ndarray, " _"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Question:
    """A question, alone, about a video (or an image, of one frame) or about a document."""

    text: str
    frames: UInt8[np.ndarray, "frames side side 3"] | None = None
    document: str | None = None
    answers: Literal["one", "several"] = "one"
    """Of a document: whether one thing is asked for or several, which the prompt says."""

    def __post_init__(self) -> None:
        """Refuse a question about two things."""
        if self.frames is not None and self.document is not None:
            raise InputError(
                what=f"question {self.text!r}",
                got="a video and a document",
                expected="one of them",
                remedy="Ask two questions.",
            )


class _Prompts(NamedTuple):
    """Arrays [rows, prompt], on the host and then on the devices."""

    tokens: Any
    order: Any


class _Scored(NamedTuple):
    """Arrays [batch, seq], likewise."""

    tokens: Any
    targets: Any
    order: Any
    first: Any


class Engine:
    """One model with its tokenizers on one mesh.

    Everything random depends on the seed and on the prompt, never on what else is in the batch.
    """

    def __init__(
        self,
        model: WorldModel,
        *,
        config: ModelConfig,
        tokenizer: TextTokenizer,
        vocabulary: Vocabulary,
        frame_tokenizer: FrameTokenizer | None,
        mesh: Mesh,
        limits: EngineConfig,
    ) -> None:
        """Make the weights ready for generation, once.

        Args:
            model: parameters that lie on `mesh`.
            config: their configuration; `rope_base` is that of the stage that made them.
            tokenizer: of text.
            vocabulary: who owns which id.
            frame_tokenizer: of frames; None for a model that only reads and writes text.
            mesh: as made by `core.mesh`.
            limits: the model's context, and how much is decoded at once.

        Raises:
            InputError: model, vocabulary and frame tokenizer do not belong together.
        """
        _check_fit(config, vocabulary, frame_tokenizer)
        self.tokenizer, self.vocabulary, self.limits = tokenizer, vocabulary, limits
        self._model, self._config, self._frame_tokenizer, self._mesh = model, config, frame_tokenizer, mesh
        self._members = _size(mesh, SEQ_AXES)
        # The weights hold the rotary frequencies: without the base, stages of a run share compiled programs.
        self._program_config = replace(config, rope_base=_NO_BASE)
        with jax.set_mesh(mesh):
            self._weights = _ready(model, config=config)

    @property
    def fingerprint(self) -> str:
        """What changes with any weight, whichever run or step it comes from, and not with the mesh."""
        with jax.set_mesh(self._mesh):
            return fingerprint(self._model)

    def complete(self, texts: Sequence[str], *, max_new_tokens: int, sampling: SamplingConfig) -> list[str]:
        """Go on with each text; return only what is new."""
        prompts = [np.array([self.tokenizer.bos, *self.tokenizer.encode(text)], np.int32) for text in texts]
        written = self.continue_ids(prompts, max_new_tokens=max_new_tokens, sampling=sampling)
        return [self.tokenizer.decode(ids.tolist()) for ids in written]

    def answer(
        self,
        questions: Sequence[Question],
        *,
        max_new_tokens: int,
        sampling: SamplingConfig = GREEDY,
    ) -> list[str]:
        """Answer each question, by default with the likeliest words.

        Raises:
            InputError: a question does not fit into the context, or its frames have another size than the
                frame tokenizer's.
        """
        prompts = [self._question_prompt(question) for question in questions]
        written = self.continue_ids(prompts, max_new_tokens=max_new_tokens, sampling=sampling)
        return [self.tokenizer.decode(ids.tolist()).strip() for ids in written]

    def continue_ids(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int, sampling: SamplingConfig
    ) -> list[Prompt]:
        """Return the text ids that follow each prompt, up to `</s>`, itself left out, or `max_new_tokens`.

        Raises:
            InputError: a prompt is empty, or does not fit into the context with what follows it.
        """
        if max_new_tokens < 1:
            raise InputError(
                what="new tokens", got=str(max_new_tokens), expected="at least 1", remedy="Ask for more."
            )
        written = self._generate(
            prompts,
            grammar=text_grammar(self.vocabulary, end=self.tokenizer.eos),
            new_tokens=max_new_tokens,
            sampling=sampling,
        )
        return [ids[ids != self.tokenizer.eos] for ids in written]

    def generate_frames(
        self, captions: Sequence[str], *, frames: int, sampling: SamplingConfig
    ) -> UInt8[np.ndarray, "captions frames side side 3"]:
        """Draw a video of each caption, or an image where `frames` is 1.

        Raises:
            InputError: `frames` is below 1, or so many do not fit into the context.
        """
        codes = self.generate_codes(captions, frames=frames, sampling=sampling)
        pixels = self._frames_needed().decode(codes.reshape(-1, codes.shape[-1]))
        return pixels.reshape(len(captions), frames, *pixels.shape[1:])

    def generate_codes(
        self, captions: Sequence[str], *, frames: int, sampling: SamplingConfig
    ) -> Int32[np.ndarray, "captions frames codes"]:
        """Draw the codes of each caption's frames, guided where the scale is not 1."""
        kind = "image" if frames == 1 else "video"
        guided = sampling.guidance_scale != 1
        free = self.encode(chat.unconditional_prompt())
        prompts = []
        for caption in captions:
            prompts.append(self.encode(chat.generation_prompt(caption, kind=kind)))
            prompts += [free] if guided else []
        ids = self._generate(
            prompts,
            grammar=frame_grammar(self.vocabulary, frames=frames),
            new_tokens=frames * self.vocabulary.frame_tokens,
            sampling=sampling,
            rows_each=2 if guided else 1,
        )
        codes = [self.vocabulary.decode_frames(row) for row in ids]
        shape = (len(captions), frames, self.vocabulary.codes_per_frame)
        return np.array(codes, np.int32).reshape(shape)

    def score(
        self,
        tokens: Int32[np.ndarray, "batch seq"],
        targets: Int32[np.ndarray, "batch seq"],
        *,
        order: Int32[np.ndarray, "batch seq"],
        first: Int32[np.ndarray, "batch seq"],
    ) -> Float32[np.ndarray, "batch seq"]:
        """Return the negative log-likelihood of each target in nats, over its own modality as in training.

        Raises:
            InputError: the layout cannot cut the sequence over the mesh.
        """
        rows = self._placed(order, first)
        with jax.set_mesh(self._mesh):
            scored = _Scored(tokens, targets, order, first)
            placed = arrange(scored, mesh=self._mesh, placements=[row.placement for row in rows])
            losses = _losses(
                self._model,
                placed.tokens,
                placed.targets,
                order=placed.order,
                first=placed.first,
                config=self._config,
            )
        slots = np.stack([row.slots() for row in rows])
        return np.take_along_axis(np.asarray(losses), slots, axis=1)

    def encode(
        self, segments: chat.Segments, *, codes: Sequence[Int[np.ndarray, "frames codes"]] = ()
    ) -> Prompt:
        """Return the ids of a template, with the codes of its frames."""
        return chat.encode(
            segments, tokenizer=self.tokenizer, vocabulary=self.vocabulary, frames=codes
        ).tokens

    def question_tokens(self, question: Question) -> int:
        """Return how many tokens the prompt of a question takes."""
        return len(self._question_prompt(question))

    def _question_prompt(self, question: Question) -> Prompt:
        if question.frames is not None:
            codes = self._frames_needed().encode(question.frames)
            return self.encode(chat.video_question_prompt(question.text), codes=[codes])
        if question.document is not None:
            prompt = chat.document_question_prompt(question.document, question.text, answers=question.answers)
            return self.encode(prompt)
        return self.encode(chat.question_prompt(question.text))

    def _frames_needed(self) -> FrameTokenizer:
        if self._frame_tokenizer is None:
            raise InputError(
                what="frame tokenizer",
                got="a model without one",
                expected="one, since frames are asked for",
                remedy="Name the folder of the frame tokenizer that the model was trained with.",
            )
        return self._frame_tokenizer

    def _generate(
        self,
        prompts: Sequence[Prompt],
        *,
        grammar: Grammar,
        new_tokens: int,
        sampling: SamplingConfig,
        rows_each: int = 1,
    ) -> list[Prompt]:
        """Return, of each group of `rows_each` prompts, what follows, without what was left empty."""
        if any(len(prompt) == 0 for prompt in prompts):
            raise InputError(what="prompt", got="no token", expected="at least one", remedy="Begin with <s>.")
        followed: dict[int, np.ndarray] = {}
        for batch in batches(
            prompts,
            checksums=[zlib.crc32(prompt.astype("<i4").tobytes()) for prompt in prompts],
            rows_each=rows_each,
            new_tokens=new_tokens,
            multiple_of_rows=_size(self._mesh, BATCH_AXES),
            limits=self.limits,
        ):
            request = _request(batch, grammar=grammar, new_tokens=new_tokens, sampling=sampling)
            written = self._run(batch, request, rows_each=rows_each)
            followed |= dict(zip(batch.indices, written))
        return [row[row >= 0] for row in (followed[i] for i in range(0, len(prompts), rows_each))]

    def _run(self, batch: PromptBatch, request: Request, *, rows_each: int) -> Int32[np.ndarray, "rows room"]:
        width = padded_length(batch.tokens.shape[1], members=self._members)
        padding = ((0, 0), (0, width - batch.tokens.shape[1]))
        prompts = _Prompts(np.pad(batch.tokens, padding), np.pad(batch.order, padding, constant_values=-1))
        with jax.set_mesh(self._mesh):
            rows = self._placed(prompts.order, np.zeros_like(prompts.order))
            placed = arrange(prompts, mesh=self._mesh, placements=[row.placement for row in rows])
            written = generate(
                self._weights,
                placed.tokens,
                request,
                order=placed.order,
                config=self._program_config,
                slots=padded_length(width + batch.room, members=self._members),
                room=batch.room,
                rows_each=rows_each,
            )
        return np.asarray(written)

    def _placed(
        self, order: Int32[np.ndarray, "rows seq"], first: Int32[np.ndarray, "rows seq"]
    ) -> list[PlacedRow]:
        return placed_rows(order, first, attention=self._config.attention, mesh=self._mesh)


@partial(jax.jit, static_argnames="config")
def _ready(model: WorldModel, *, config: ModelConfig) -> GenerationWeights:
    return GenerationWeights.from_model(model, config=config)


@partial(jax.jit, static_argnames="config")
def _losses(
    model: WorldModel,
    tokens: Int32[Array, "batch seq"],
    targets: Int32[Array, "batch seq"],
    *,
    order: Int32[Array, "batch seq"],
    first: Int32[Array, "batch seq"],
    config: ModelConfig,
) -> Float32[Array, "batch seq"]:
    states = hidden(model, tokens, order=order, first=first, config=config)
    return token_losses(
        states, model.head, targets, text_vocab=config.text_vocab, vision_vocab=config.vision_vocab
    )


def _request(batch: PromptBatch, *, grammar: Grammar, new_tokens: int, sampling: SamplingConfig) -> Request:
    return Request(
        lengths=jnp.asarray(batch.lengths),
        idle=jnp.asarray(batch.idle),
        checksums=jnp.asarray(batch.checksums),
        seed=jnp.uint32(sampling.seed),
        new_tokens=jnp.int32(new_tokens),
        temperature=jnp.float32(sampling.temperature),
        top_k=jnp.int32(min(sampling.top_k, np.iinfo(np.int32).max)),
        guidance_scale=jnp.float32(sampling.guidance_scale),
        grammar=grammar,
    )


def _size(mesh: Mesh, axes: Sequence[str]) -> int:
    return int(np.prod([mesh.shape[axis] for axis in axes]))


def _check_fit(config: ModelConfig, vocabulary: Vocabulary, frame_tokenizer: FrameTokenizer | None) -> None:
    problems = []
    # A model may keep more rows for vision than there are codes, as LWM does: 8448 for 8194.
    if config.text_vocab != vocabulary.text_size or config.vision_vocab < vocabulary.vision_size:
        problems.append(
            f"a model of {config.text_vocab} text and {config.vision_vocab} vision ids with a vocabulary of "
            f"{vocabulary.text_size} and {vocabulary.vision_size}"
        )
    if frame_tokenizer is not None:
        frame = frame_tokenizer.config
        if (frame.codebook_size, frame.codes_per_frame) != (vocabulary.codes, vocabulary.codes_per_frame):
            problems.append(
                f"a frame tokenizer of {frame.codes_per_frame} codes a frame out of {frame.codebook_size} "
                f"with a vocabulary of {vocabulary.codes_per_frame} out of {vocabulary.codes}"
            )
    if problems:
        raise InputError(
            what="model and tokenizers",
            got="; ".join(problems),
            expected="parts of one run",
            remedy="Take the model, the text tokenizer and the frame tokenizer from the same folder.",
        )
