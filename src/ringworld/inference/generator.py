"""Ids in, ids out: prompts are continued in batches of few shapes."""

import math
from collections.abc import Sequence
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int32

from ringworld.core.errors import InputError
from ringworld.core.ranges import whole_number
from ringworld.core.sharding import BATCH_AXES, SEQ_AXES
from ringworld.inference.batches import PromptBatch, not_finite, plan_batches
from ringworld.inference.config import GREEDY, GenerationLimits, SamplingConfig
from ringworld.inference.generate import Request, generate
from ringworld.inference.grammar import Grammar, frame_grammar, text_grammar
from ringworld.inference.prompts import Ids
from ringworld.model.arrange import Layout
from ringworld.model.cache import padded_length
from ringworld.model.decode import GenerationWeights
from ringworld.model.forward import Forward
from ringworld.text.vocabulary import Vocabulary


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
        end: int,
        mesh: Mesh,
        limits: GenerationLimits,
    ) -> None:
        """Keep the model; arguments as for `World.of`, and the id `end` after which a text is finished.

        Raises:
            InputError: the vocabulary is not that of the model.
        """
        model, ids = forward.architecture, vocabulary.size if vocabulary.codes else vocabulary.text_size
        # A model may keep more ids for vision than there are codes, as LWM does: 8448 for 8194.
        if model.text_vocab != vocabulary.text_size or model.vocab < ids:
            raise InputError(
                f"a model of {model.text_vocab} text and {model.vision_vocab} vision ids does not match a "
                f"vocabulary of {vocabulary.text_size} and {ids - vocabulary.text_size}",
                field="vocabulary",
                value=vocabulary,
                remedy="take the model and its tokenizers from one folder",
            )
        self.limits = limits
        self._weights, self._forward, self._mesh = weights, forward, mesh
        self._layout = Layout(forward.execution.attention, mesh=mesh)
        self._vocabulary, self._end = vocabulary, end

    def generate(
        self, prompts: Sequence[Ids], *, max_new_tokens: SupportsIndex, sampling: SamplingConfig = GREEDY
    ) -> list[Ids]:
        """Return the text ids that follow each prompt, up to the end, itself left out, or `max_new_tokens`.

        Raises:
            InputError: a prompt is empty, or does not fit into the context with what follows it, or the
                scores of the model are not finite.
        """
        new_tokens = whole_number("max_new_tokens", max_new_tokens, least=1)
        grammar = text_grammar(self._vocabulary, end=self._end)
        written = self._continue(prompts, grammar=grammar, new_tokens=new_tokens, sampling=sampling)
        return [ids[ids != self._end] for ids in written]

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
        return self._continue(
            [ids for prompt in prompts for ids in (prompt, unconditional)] if guided else prompts,
            grammar=grammar,
            new_tokens=count * self._vocabulary.frame_tokens,
            sampling=sampling,
            group=2 if guided else 1,
        )

    def _continue(
        self,
        prompts: Sequence[Ids],
        *,
        grammar: Grammar,
        new_tokens: int,
        sampling: SamplingConfig,
        group: int = 1,
    ) -> list[Ids]:
        """Return, of each group of prompts, what follows, without what was left empty."""
        followed: dict[int, np.ndarray] = {}
        for batch in plan_batches(
            prompts,
            group=group,
            new_tokens=new_tokens,
            multiple=math.prod(self._mesh.shape[axis] for axis in BATCH_AXES),
            limits=self.limits,
        ):
            request = _request(batch, grammar=grammar, new_tokens=new_tokens, sampling=sampling)
            followed |= dict(zip(batch.indices, self._run(batch, request, group=group)))
        return [ids[ids >= 0] for ids in (followed[i] for i in range(0, len(prompts), group))]

    def _run(self, batch: PromptBatch, request: Request, *, group: int) -> Int32[np.ndarray, "batch room"]:
        members = math.prod(self._mesh.shape[axis] for axis in SEQ_AXES)
        width = padded_length(batch.tokens.shape[1], members=members)
        padding = ((0, 0), (0, width - batch.tokens.shape[1]))
        tokens, order = np.pad(batch.tokens, padding), np.pad(batch.order, padding, constant_values=-1)
        with jax.set_mesh(self._mesh):
            host: tuple[Any, ...] = (tokens, order)
            ids, order_placed = self._layout.place(host, [[n] for n in batch.lengths.tolist()]).arrays
            written = generate(
                self._weights,
                ids,
                request,
                order=order_placed,
                forward=self._forward,
                slots=padded_length(width + batch.room, members=members),
                room=batch.room,
                group=group,
            )
        tokens, finite = jax.device_get(written)
        if not finite:
            raise not_finite()
        return tokens


def _request(batch: PromptBatch, *, grammar: Grammar, new_tokens: int, sampling: SamplingConfig) -> Request:
    return Request(
        lengths=jnp.asarray(batch.lengths),
        idle=jnp.asarray(batch.idle),
        checksums=jnp.asarray(batch.checksums),
        seed=jnp.uint32(sampling.seed),
        new_tokens=jnp.int32(new_tokens),
        temperature=_float32(sampling.temperature),
        top_k=jnp.int32(min(sampling.top_k, np.iinfo(np.int32).max)),
        guidance_scale=_float32(sampling.guidance_scale),
        grammar=grammar,
    )


def _float32(value: float) -> jax.Array:
    """Return the nearest finite float32 that is zero only for zero."""
    limits = np.finfo(np.float32)
    return jnp.float32(min(max(value, float(limits.tiny)), float(limits.max)) if value else 0)
