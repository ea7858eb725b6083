"""The compiled programs of an engine, of few shapes: a chunk of one sequence, and a step of all of them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Float32, Int32, UInt32

from ringworld.core.sharding import spec
from ringworld.inference.config import GREEDY
from ringworld.inference.engine.cache_size import CacheSize
from ringworld.inference.engine.scheduler import Chunk
from ringworld.inference.engine.sequence import MOST_ALTERNATIVES, LiveSequence, ScoredToken
from ringworld.inference.grammar import Grammar, frame_grammar, legal, text_grammar
from ringworld.inference.request import float32_of, sampling_of
from ringworld.inference.sampling import Sampling, guide, row_keys, sample
from ringworld.model.arrange import Layout
from ringworld.model.config import CacheType
from ringworld.model.decode import GenerationWeights
from ringworld.model.forward import Forward
from ringworld.model.key_values import KeyValues, fetch_pages, put_pages, span_tokens
from ringworld.model.layers import rms_norm
from ringworld.model.pages import PagePool, read_pages, step_pages
from ringworld.model.world_model import logits
from ringworld.text.vocabulary import Vocabulary

_LEAST_LOGPROB = -9999.0
"""As OpenAI's API writes it for what is very unlikely."""


class DrawnTokens(NamedTuple):
    """What a step gives for each row."""

    tokens: Int32[Array, " batch"]
    logprobs: Float32[Array, " batch"]
    finite: Bool[Array, " batch"]
    """Whether all scores are numbers; what was drawn means nothing otherwise."""
    likeliest: "_Likeliest"


class _Likeliest(NamedTuple):
    ids: Int32[Array, "*dims alternatives"]
    logprobs: Float32[Array, "*dims alternatives"]


class Rows(NamedTuple):
    """The inputs of a step for each row; no value of them compiles a program again."""

    tokens: Int32[Array, " batch"]
    order: Int32[Array, " batch"]
    """Of the token; -1 where a row writes nothing."""
    index: Int32[Array, " batch"]
    """Of the token that is drawn, counted from the end of the prompt."""
    seeds: UInt32[Array, " batch"]
    checksums: UInt32[Array, " batch"]
    tables: Int32[Array, "batch width"]
    beside: Int32[Array, " batch"]
    """The row that guidance compares with; its own where there is none."""
    guidance_scale: Float32[Array, " batch"]
    grammar: Grammar
    """Of each row."""
    sampling: Sampling
    asked: Bool[Array, ""]
    """Whether the likeliest ids are wanted of any row."""


class Programs:
    """One model with its pool of pages; call it from one thread, under `jax.set_mesh`.

    Attributes:
        pool: keys and values of all pages; each call uses it up and makes another.
    """

    def __init__(
        self,
        weights: GenerationWeights,
        *,
        forward: Forward,
        vocabulary: Vocabulary,
        mesh: Mesh,
        size: CacheSize,
        cache_type: CacheType,
    ) -> None:
        """Make an empty pool of a size."""
        self._weights, self._forward = weights, forward
        self._size, self._page, self._rows = size, size.page_tokens, size.max_sequences
        self._cache_type: CacheType = cache_type
        self._vocabulary, self._text = vocabulary, text_grammar(vocabulary, ends=())
        # In this layout token t of a chunk is on member t % members, as in a page.
        self._layout = Layout(replace(forward.execution.attention, layout="striped"), mesh=mesh)
        self._replicated = jax.NamedSharding(mesh, spec())
        self.pool, self._seen = self._empty()

    def clear(self) -> None:
        """Begin again with an empty pool."""
        for array in jax.tree.leaves((self.pool, self._seen)):
            array.delete()
        self.pool, self._seen = self._empty()

    def join(self, sequence: LiveSequence) -> None:
        """Let a sequence have its row."""
        assert sequence.row is not None
        seen = np.zeros(self._seen.shape[1], bool)
        seen[sequence.ids] = True
        self._seen = _join(self._seen, self._put(np.int32(sequence.row)), self._put(seen))

    def read(self, chunk: Chunk) -> list[ScoredToken]:
        """Read a chunk; return the scores of what follows each of its tokens, if they were asked for."""
        sequence, start, stop = chunk.sequence, chunk.start, chunk.start + chunk.tokens
        tokens = np.zeros((1, chunk.size), np.int32)
        order, targets = np.full_like(tokens, -1), np.zeros_like(tokens)
        tokens[0, : chunk.tokens] = sequence.ids[start:stop]
        targets[0, : chunk.tokens] = sequence.ids[start + 1 : stop + 1]
        order[0, : chunk.tokens] = np.arange(start, stop)
        host: tuple[Any, ...] = (tokens, order, targets)
        placed = self._layout.place(host, [[chunk.size]])
        ids, placed_order, next_ids = placed.arrays
        table = self._table([sequence])
        begins = start // self._page
        pages = np.zeros(chunk.size // self._page, np.int32)
        own = sequence.pages[begins : begins + len(pages)]
        pages[: len(own)] = own
        x, self.pool = read_pages(
            self._weights,
            self.pool,
            ids,
            order=placed_order,
            pages=self._put(pages),
            table=jax.reshard(self._put(table), spec("batch", None)),
            forward=self._forward,
        )
        if not sequence.scores_prompt:
            return []
        nats, likeliest = _score(self._weights, x, next_ids, forward=self._forward)
        scores = placed.restore(nats)[0]
        found = _Likeliest(*(placed.restore(x)[0] for x in likeliest))
        return [
            _scored(sequence, token=targets[0, i], logprob=scores[i], likeliest=found, at=i)
            for i in range(chunk.tokens)
        ]

    def fetch(self, pages: Sequence[int]) -> KeyValues:
        """Return the keys and values of the tokens of some pages."""
        compute = self._forward.execution.compute
        return fetch_pages(self.pool, self._put(np.asarray(pages, np.int32)), compute=compute)

    def put(self, pages: Sequence[int], span: KeyValues) -> None:
        """Fill pages with keys and values of tokens."""
        self.pool = put_pages(self.pool, span, pages=self._put(np.asarray(pages, np.int32)))

    @property
    def span_tokens(self) -> int:
        """How many tokens are fetched or put at once, whole pages."""
        forward = self._forward
        return span_tokens(forward.architecture, compute=forward.execution.compute, multiple=self._page)

    def step(self, sequences: Sequence[LiveSequence]) -> list[tuple[ScoredToken, bool]]:
        """Write a token of each; return it, and whether the scores that it was drawn from are numbers."""
        drawn = self.run(self.rows_of(sequences))
        return [
            (
                _scored(
                    each,
                    token=drawn.tokens[each.row],
                    logprob=drawn.logprobs[each.row],
                    likeliest=drawn.likeliest,
                    at=each.row,
                ),
                bool(drawn.finite[each.row]),
            )
            for each in sequences
        ]

    def rows_of(self, sequences: Sequence[LiveSequence]) -> Rows:
        """Return the inputs of a step, in NumPy: jit places it sooner than `jax.device_put` would."""
        by_row = {each.row: each for each in sequences}
        rows = [by_row.get(row) for row in range(self._rows)]
        beside: Any = np.array(
            [i if each is None else each.stepped_with[-1].row for i, each in enumerate(rows)], np.int32
        )
        asked: Any = np.bool_(any(each.request.alternatives for each in sequences))
        return Rows(
            tokens=_each(rows, lambda each: each.ids[-1]),
            order=_each(rows, lambda each: len(each.ids) - 1, idle=-1),
            index=_each(rows, lambda each: each.written),
            seeds=_each(rows, lambda each: each.request.sampling.seed, dtype=np.uint32),
            checksums=_each(rows, lambda each: each.checksum, dtype=np.uint32),
            tables=self._table(rows),
            beside=beside,
            guidance_scale=_each(
                rows, lambda each: float32_of(each.sampling.guidance_scale), dtype=np.float32
            ),
            grammar=jax.tree.map(lambda *x: np.array(x, np.int32), *map(self._grammar, rows)),
            sampling=sampling_of([GREEDY if each is None else each.sampling for each in rows]),
            asked=asked,
        )

    def run(self, rows: Rows) -> DrawnTokens:
        """Write a token of each row, and wait for it; what is drawn is on the host."""
        drawn, self._seen, self.pool = _step(
            self._weights, self.pool, self._seen, rows, forward=self._forward
        )
        return jax.device_get(drawn)

    def _grammar(self, sequence: LiveSequence | None) -> Grammar:
        if sequence is None:
            return self._text
        if (ids := sequence.clip_ids) is not None:
            return Grammar(body_start=ids.start, body_stop=ids.stop)
        if not sequence.request.frames:
            return self._text
        return frame_grammar(self._vocabulary, frames=sequence.request.frames)

    def _empty(self) -> tuple[PagePool, Bool[Array, "batch vocab"]]:
        architecture, compute = self._forward.architecture, self._forward.execution.compute
        pool = PagePool.init(
            architecture,
            pages=self._size.pages,
            page_tokens=self._page,
            compute=compute,
            cache_type=self._cache_type,
        )
        return pool, self._put(np.zeros((self._rows, architecture.vocab), bool))

    def _table(self, sequences: Sequence[LiveSequence | None]) -> Any:
        """Return the pages of each, [batch, width]."""
        tables = np.zeros((len(sequences), self._size.table_pages), np.int32)
        for table, sequence in zip(tables, sequences):
            if sequence is not None:
                table[: len(sequence.pages)] = sequence.pages
        return tables

    def _put(self, tree: Any) -> Any:
        return jax.device_put(tree, self._replicated)


def _each(
    rows: Sequence[LiveSequence | None],
    value: Callable[[LiveSequence], int | float],
    *,
    idle: int = 0,
    dtype: type[np.number] = np.int32,
) -> Any:
    return np.array([idle if each is None else value(each) for each in rows], dtype)


def _scored(
    sequence: LiveSequence, *, token: Any, logprob: Any, likeliest: _Likeliest, at: int | None
) -> ScoredToken:
    count = sequence.request.alternatives
    ids, logprobs = (np.asarray(x)[at, :count].tolist() for x in likeliest) if count else ([], [])
    # Where fewer ids are legal, others follow them.
    others = tuple((id, nats) for id, nats in zip(ids, logprobs) if nats > -math.inf)
    return ScoredToken(id=int(token), logprob=float(logprob), alternatives=others)


@partial(jax.jit, donate_argnames="seen")
def _join(
    seen: Bool[Array, "batch vocab"], row: Int32[Array, ""], ids: Bool[Array, " vocab"]
) -> Bool[Array, "batch vocab"]:
    return jax.lax.dynamic_update_index_in_dim(seen, ids, row, axis=0)


# The pool and what was seen are returned so that they can be donated.
@partial(jax.jit, donate_argnames=("pool", "seen"))
def _step(
    weights: GenerationWeights,
    pool: PagePool,
    seen: Bool[Array, "batch vocab"],
    rows: Rows,
    *,
    forward: Forward,
) -> tuple[DrawnTokens, Bool[Array, "batch vocab"], PagePool]:
    scores, pool = step_pages(
        weights, pool, rows.tokens, order=rows.order, tables=rows.tables, forward=forward
    )
    # Scores of one token are small: every device draws for every row, and no draw depends on the mesh.
    scores = jax.reshard(scores, spec(None, None))
    finite = jnp.isfinite(scores).all(axis=1)
    guided = (rows.beside != jnp.arange(len(scores)))[:, None]
    scale = rows.guidance_scale[:, None]
    scores = jnp.where(guided, guide(scores, scores[rows.beside], scale=scale), scores)
    may_follow = jax.vmap(partial(legal, vocab=scores.shape[1]))(rows.grammar, rows.index)
    tokens = sample(
        scores,
        legal=may_follow,
        seen=seen,
        keys=row_keys(rows.seeds, rows.checksums),
        index=rows.index,
        sampling=rows.sampling,
    )
    logprobs = _logprobs(scores, legal=may_follow)
    count = min(MOST_ALTERNATIVES, scores.shape[1])
    nothing = _Likeliest(jnp.zeros((len(tokens), count), jnp.int32), jnp.zeros((len(tokens), count)))
    drawn = DrawnTokens(
        tokens=tokens,
        logprobs=jnp.take_along_axis(logprobs, tokens[:, None], axis=1)[:, 0],
        finite=finite & finite[rows.beside],
        likeliest=jax.lax.cond(rows.asked, lambda x: _likeliest(x, count), lambda x: nothing, logprobs),
    )
    # Other rows draw too, and what they draw is dropped: their sequences may be half read.
    seen = seen.at[jnp.arange(len(tokens)), tokens].max(rows.order >= 0)
    return drawn, seen, pool


@jax.jit
def _score(
    weights: GenerationWeights,
    x: Float[Array, "1 seq embed"],
    targets: Int32[Array, "1 seq"],
    *,
    forward: Forward,
) -> tuple[Float32[Array, "1 seq"], _Likeliest]:
    """Return the log-probability of each target in its modality, and the likeliest ids in its place."""
    architecture = forward.architecture
    scores = logits(rms_norm(x, weights.norm, eps=architecture.norm_eps), weights.output_head)
    ids = jnp.arange(architecture.vocab, dtype=jnp.int32)[None, None]
    same_modality = (ids < architecture.text_vocab) == (targets < architecture.text_vocab)[..., None]
    logprobs = _logprobs(jax.reshard(scores, spec("batch", "seq", None)), legal=same_modality)
    # A product and no lookup, which knows how targets are sharded.
    chosen = ids == targets[..., None]
    own = jnp.where(chosen, logprobs, 0).sum(axis=-1)
    return own, _likeliest(logprobs, min(MOST_ALTERNATIVES, logprobs.shape[-1]))


def _logprobs(
    scores: Float32[Array, "*dims vocab"], *, legal: Bool[Array, "*#dims vocab"]
) -> Float32[Array, "*dims vocab"]:
    # Differences of scores that overflow are those of ids that are never drawn, and stay numbers.
    nats = jnp.maximum(jax.nn.log_softmax(jnp.where(legal, scores, -jnp.inf), axis=-1), _LEAST_LOGPROB)
    return jnp.where(legal, nats, -jnp.inf)


def _likeliest(logprobs: Float32[Array, "*dims vocab"], count: int) -> _Likeliest:
    values, ids = jax.lax.top_k(logprobs, count)
    return _Likeliest(ids=ids, logprobs=values)
