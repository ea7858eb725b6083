"""Ids in, ids out: prompts are continued in batches of few shapes."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, SupportsIndex

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32

from ringworld.core.errors import InputError
from ringworld.core.mesh import members_of
from ringworld.core.ranges import whole_number
from ringworld.core.sharding import BATCH_AXES, SEQ_AXES
from ringworld.inference.batches import LEAST_BUCKET_TOKENS, PromptBatch, not_finite, plan_batches
from ringworld.inference.config import GREEDY, EngineConfig, GenerationLimits, SamplingConfig
from ringworld.inference.engine.engine import Engine
from ringworld.inference.generate import Decoding, Written
from ringworld.inference.grammar import Grammar, frame_grammar, text_grammar
from ringworld.inference.memory import Remembering
from ringworld.inference.prompts import Ids
from ringworld.inference.reading import chunk_sizes, read_chunks
from ringworld.inference.request import Request, request_of
from ringworld.inference.session import Session
from ringworld.model.arrange import Layout
from ringworld.model.cache import KVCache, padded_length
from ringworld.model.decode import GenerationWeights, prefill
from ringworld.model.forward import Forward
from ringworld.text.vocabulary import Vocabulary

Watch = Callable[[int, int], bool]
"""Called with the index of a continuation and each id of it in turn; True finishes it there."""
_WATCHED_TOKENS = 8
"""Written between two looks."""
_SMALLEST_SHARE = 8
"""The largest chunk of a prompt is so many of the smallest: four sizes, each a program for each width."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Continuation:
    """What follows a prompt."""

    tokens: Ids
    """Without the id that ended it."""
    logprobs: Float32[np.ndarray, " tokens"]
    """Of each token in nats, before temperature and all else that sampling changes."""
    finish: Literal["stop", "length"]
    """`stop`: at an end, or by whoever watches; `length`: cut at the most tokens that were asked for."""


class Generator:
    """One model on one mesh, which continues ids.

    Everything random depends on the seed and on the prompt, never on what else is in the batch.

    Attributes:
        limits: the model's context, and how much is decoded at once.
    """

    def __init__(
        self,
        weights: GenerationWeights,
        *,
        forward: Forward,
        vocabulary: Vocabulary,
        ends: Sequence[int],
        mesh: Mesh,
        limits: GenerationLimits,
    ) -> None:
        """Keep the model; arguments as for `World.of`, and `ends`, the ids that finish a text.

        Raises:
            InputError: the vocabulary is not that of the model.
        """
        _check_vocabulary(vocabulary, forward)
        self.limits = limits
        self._weights, self._forward, self._mesh = weights, forward, mesh
        self._layout = Layout(forward.execution.attention, mesh=mesh)
        self._vocabulary, self._ends = vocabulary, tuple(ends)

    def generate(
        self,
        prompts: Sequence[Ids],
        *,
        max_new_tokens: SupportsIndex,
        sampling: SamplingConfig = GREEDY,
        samples: SupportsIndex = 1,
        more_ends: Sequence[int] = (),
        watch: Watch | None = None,
    ) -> list[Continuation]:
        """Return the text ids that follow each prompt, up to an end or `max_new_tokens`.

        Args:
            prompts: ids.
            max_new_tokens: most ids of each continuation.
            sampling: how they are drawn.
            samples: continuations of each prompt, beside each other; the first is what one alone would be.
            more_ends: ids that finish these, besides those that finish any text.
            watch: finishes continuations that need no more.

        Raises:
            InputError: a prompt is empty, or does not fit into the context with what follows it, several
                samples are asked for at temperature 0, or the scores of the model are not finite.
        """
        new_tokens = whole_number("max_new_tokens", max_new_tokens, least=1)
        count = whole_number("samples", samples, least=1, below=2**31)
        if count > 1 and sampling.temperature == 0:
            raise InputError(
                f"samples is {count}, but all would be the same, since temperature is 0",
                field="samples",
                value=count,
                remedy="raise temperature, or ask for one",
            )
        return self._continue(
            [prompt for prompt in prompts for _ in range(count)],
            grammar=text_grammar(self._vocabulary, ends=[*self._ends, *more_ends]),
            new_tokens=new_tokens,
            sampling=sampling,
            samples=count,
            watch=watch,
        )

    def generate_frames(
        self, prompts: Sequence[Ids], *, frames: SupportsIndex, sampling: SamplingConfig, unconditional: Ids
    ) -> list[Ids]:
        """Return the ids of so many frames after each prompt, guided where the scale is not 1.

        Args:
            prompts: each asks for frames.
            frames: of each.
            sampling: how codes are drawn.
            unconditional: the prompt that guidance compares with.

        Raises:
            InputError: as for `generate`, or the model is one of text alone.
        """
        # The grammar counts tokens in int32.
        most = (2**31 - 1) // max(1, self._vocabulary.frame_tokens)
        count = whole_number("frames", frames, least=1, most=most, remedy="use 1 for an image")
        grammar = frame_grammar(self._vocabulary, frames=count)
        guided = sampling.guidance_scale != 1
        drawn = self._continue(
            [ids for prompt in prompts for ids in (prompt, unconditional)] if guided else prompts,
            grammar=grammar,
            new_tokens=count * self._vocabulary.frame_tokens,
            sampling=sampling,
            group=2 if guided else 1,
        )
        return [frames_drawn.tokens for frames_drawn in drawn]

    def session(self, *, more_ends: Sequence[int] = ()) -> Session:
        """Return a sequence that grows, of which nothing is read twice; it ends at more ids than texts do."""
        return Session(
            self._weights,
            forward=self._forward,
            vocabulary=self._vocabulary,
            ends=[*self._ends, *more_ends],
            mesh=self._mesh,
            limits=self.limits,
        )

    def engine(self, *, decode: Callable[[Sequence[int]], str], config: EngineConfig) -> Engine:
        """Return what continues many prompts at once, as they come; `decode` gives the text of ids.

        Raises:
            InputError: the cache would hold less than a context, or the mesh cuts a batch.
        """
        return Engine(
            self._weights,
            forward=self._forward,
            vocabulary=self._vocabulary,
            ends=self._ends,
            decode=decode,
            mesh=self._mesh,
            limits=self.limits,
            config=config,
        )

    @cached_property
    def remembering(self) -> Remembering:
        """What binds memories to this model; the first look reads all weights."""
        return Remembering.of(
            self._weights, forward=self._forward, vocabulary=self._vocabulary, mesh=self._mesh
        )

    def _continue(
        self,
        prompts: Sequence[Ids],
        *,
        grammar: Grammar,
        new_tokens: int,
        sampling: SamplingConfig,
        group: int = 1,
        samples: int = 1,
        watch: Watch | None = None,
    ) -> list[Continuation]:
        """Return, of each group of prompts, what follows."""
        followed: dict[int, Continuation] = {}
        for batch in plan_batches(
            prompts,
            group=group,
            new_tokens=new_tokens,
            multiple=members_of(self._mesh, BATCH_AXES),
            limits=self.limits,
            samples=samples,
        ):
            request = request_of(
                batch,
                grammar=grammar,
                new_tokens=new_tokens,
                sampling=sampling,
                vocab=self._forward.architecture.vocab,
            )
            with jax.set_mesh(self._mesh):
                decoding = self._read(batch, request, group=group)
                written, stopped = _run(decoding, batch, new_tokens=new_tokens, watch=watch)
            for i, index in enumerate(batch.indices):
                tokens = written.tokens[i, : stopped.get(i)]
                tokens = tokens[tokens >= 0]
                ended = bool(np.isin(tokens[-1:], grammar.ends).any())
                kept = len(tokens) - ended
                followed[index] = Continuation(
                    tokens=tokens[:kept],
                    logprobs=written.logprobs[i, :kept],
                    finish="stop" if ended or i in stopped else "length",
                )
        return [followed[i] for i in range(0, len(prompts), group)]

    def _read(self, batch: PromptBatch, request: Request, *, group: int) -> Decoding:
        """Read prompts, the longer ones in chunks, and write the first token of each."""
        members, chunk = members_of(self._mesh, SEQ_AXES), self.limits.chunk_tokens
        width, longest = batch.tokens.shape[1], int(batch.lengths.max())
        chunked = width > chunk
        if chunked:  # The width alone decides the slots; how much is computed, the longest prompt does.
            least = max(LEAST_BUCKET_TOKENS, chunk // _SMALLEST_SHARE)
            sizes = chunk_sizes(longest, most=chunk, members=members, least=least)
        else:
            sizes = [padded_length(width, members=members)]
        read = sum(sizes)
        cache = KVCache.init(
            self._forward.architecture,
            batch=len(batch.lengths),
            slots=padded_length(max(width, read) + batch.room, members=members),
            compute=self._forward.execution.compute,
        )
        if chunked:
            chunks = read_chunks(
                self._weights,
                cache,
                batch.tokens[:, :longest],
                order=batch.order[:, :longest],
                sizes=sizes,
                slot=0,
                forward=self._forward,
                mesh=self._mesh,
            )
            scores, cache = deque(chunks, maxlen=1).pop()
        else:
            padding = ((0, 0), (0, read - width))
            host: tuple[Any, ...] = (
                np.pad(batch.tokens, padding),
                np.pad(batch.order, padding, constant_values=-1),
            )
            tokens, order = self._layout.place(host, [[n] for n in batch.lengths.tolist()]).arrays
            scores, cache = prefill(self._weights, cache, tokens, order=order, forward=self._forward)
        return Decoding(
            self._weights,
            scores,
            cache,
            request,
            prompt_slots=read,
            forward=self._forward,
            room=batch.room,
            group=group,
        )


def _run(
    decoding: Decoding, batch: PromptBatch, *, new_tokens: int, watch: Watch | None
) -> tuple[Written, dict[int, int]]:
    """Write all that follows; return it, and how many tokens there were of what `watch` finished."""
    stopped: dict[int, int] = {}
    looked = 0
    if watch is None:
        decoding.advance(new_tokens)
    while True:
        written = decoding.written()
        if not written.finite:
            raise not_finite()
        for i, index in enumerate(batch.indices if watch else ()):
            for position in range(looked, written.count):
                token = int(written.tokens[i, position])
                if token >= 0 and i not in stopped and watch and watch(index, token):
                    stopped[i] = position + 1
        finished = written.done.copy()
        finished[list(stopped)] = True
        looked = written.count
        if looked >= new_tokens or finished.all():
            return written, stopped
        decoding.advance(_WATCHED_TOKENS, finished=finished)


def _check_vocabulary(vocabulary: Vocabulary, forward: Forward) -> None:
    model = forward.architecture
    ids = vocabulary.size if vocabulary.codes else vocabulary.text_size
    # A model may keep more ids for vision than there are codes, as LWM does: 8448 for 8194.
    if model.text_vocab != vocabulary.text_size or model.vocab < ids:
        raise InputError(
            f"a model of {model.text_vocab} text and {model.vision_vocab} vision ids does not match a "
            f"vocabulary of {vocabulary.text_size} and {ids - vocabulary.text_size}",
            field="vocabulary",
            value=vocabulary,
            remedy="take the model and its tokenizers from one folder",
        )
