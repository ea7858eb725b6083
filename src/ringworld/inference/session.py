"""One sequence that grows: what was read of it stays in the cache, and only what is new is read."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float32

from ringworld.core.mesh import members_of
from ringworld.core.sharding import BATCH_AXES, SEQ_AXES
from ringworld.inference.batches import not_finite, plan_batches
from ringworld.inference.config import GenerationLimits, SamplingConfig
from ringworld.inference.generate import Decoding
from ringworld.inference.grammar import text_grammar
from ringworld.inference.prompts import Ids
from ringworld.inference.reading import chunk_sizes, read_chunks
from ringworld.inference.request import request_of
from ringworld.model.cache import KVCache, forget, grow
from ringworld.model.decode import GenerationWeights
from ringworld.model.forward import Forward
from ringworld.model.key_values import KeyValues, cut, fetch_slots, put_slots, span_tokens
from ringworld.text.vocabulary import Vocabulary

_BLOCK_TOKENS = 4
"""Written between two yields: a call costs about a millisecond, a token of a small model some thirty."""
_SLOT_STEP = 2048
"""The slots of a cache are a multiple of it on each member, so that blocks of attention fill them."""


class Session:
    """A sequence of ids with its cache; `read` it and `write` on, in turn.

    Example:
        >>> for tokens_read in session.read(prompt): ...
        >>> for id in session.write(max_new_tokens=64, sampling=GREEDY): ...
        >>> for tokens_read in session.read([*prompt, *answer, *question]): ...   # reads the question alone

    Attributes:
        reused: of the ids that were read last, those that the cache held already.
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
        """Begin with nothing; arguments as for `Generator`."""
        self._weights, self._forward, self._mesh, self._limits = weights, forward, mesh, limits
        self._vocabulary, self._ends = vocabulary, frozenset(ends)
        self._rows, self._members = members_of(mesh, BATCH_AXES), members_of(mesh, SEQ_AXES)
        self._cache: KVCache | None = None
        self._scores: Float32[Array, "batch vocab"] | None = None
        self._ids: list[int] = []
        self._slots: list[int] = []
        self._room = 0
        self.reused = 0

    @property
    def held(self) -> int:
        """Number of tokens that are in the cache."""
        return len(self._ids)

    def read(self, ids: Ids) -> Generator[int, None, None]:
        """Make the sequence `ids`, reading what is not in the cache; yield the number held, after each chunk.

        What the cache holds beyond the tokens that it shares with `ids` is forgotten. A caller may stop
        between two chunks: what was read until then is kept. Where a chunk ends in an error, as by a Ctrl-C,
        nothing is held.
        """
        kept = self.reused = min(_shared(self._ids, ids), len(ids) - 1)
        if kept < len(self._ids):
            assert self._cache is not None
            with self._whole():
                self._cache = forget(self._cache, kept=jnp.int32(kept))
                del self._ids[kept:], self._slots[kept:]
        sizes = chunk_sizes(len(ids) - kept, most=self._limits.chunk_tokens, members=self._members)
        slot = self._next_slot()
        cache = self._cache_of(slot + sum(sizes))
        tokens = np.zeros((self._rows, len(ids) - kept), np.int32)
        order = np.full_like(tokens, -1)
        tokens[0], order[0] = ids[kept:], np.arange(kept, len(ids))
        chunks = read_chunks(
            self._weights,
            cache,
            tokens,
            order=order,
            sizes=sizes,
            slot=slot,
            forward=self._forward,
            mesh=self._mesh,
        )
        for size in sizes:
            with self._whole():
                self._scores, self._cache = next(chunks)
                self._scores.block_until_ready()
                new = ids[len(self._ids) : len(self._ids) + size].tolist()
                start = slot + len(self._ids) - kept
                self._ids += new
                self._slots += range(start, start + len(new))
            yield len(self._ids)

    def write(self, *, max_new_tokens: int, sampling: SamplingConfig) -> Generator[int, None, None]:
        """Yield the text ids that follow what was read, up to an end, itself left out.

        The draws are those of `Generator.generate` for the same ids. A caller may stop at any id.

        Raises:
            InputError: so many tokens do not fit into the context, or the scores of the model are not finite.
        """
        assert self._scores is not None, "nothing was read"
        ids = np.asarray(self._ids, np.int32)
        (batch,) = plan_batches(
            [ids], group=1, new_tokens=max_new_tokens, multiple=self._rows, limits=self._limits
        )
        slot = self._next_slot()
        request = request_of(
            batch,
            grammar=text_grammar(self._vocabulary, ends=[*self._ends]),
            new_tokens=max_new_tokens,
            sampling=sampling,
            vocab=self._forward.architecture.vocab,
        )
        cache = self._cache_of(slot + max_new_tokens)
        # Never less than before, since it is part of a program: the last answers of a context are short.
        self._room = max(self._room, batch.room)
        with jax.set_mesh(self._mesh):
            decoding = Decoding(
                self._weights,
                self._scores,
                cache,
                request,
                prompt_slots=slot,
                forward=self._forward,
                room=self._room,
            )
        count = 0
        while True:
            with self._whole():
                if count:
                    decoding.advance(_BLOCK_TOKENS)
                written = decoding.written()
                tokens = written.tokens[0, : written.count].tolist()
                # The last one has not been read yet.
                self._ids += tokens[max(count - 1, 0) : -1]
                self._slots = [*self._slots, *range(slot + max(count - 1, 0), slot + written.count - 1)]
                self._cache = decoding.cache
            if not written.finite:
                raise not_finite()
            new, count = tokens[count:], written.count
            yield from (id for id in new if id not in self._ends)
            if written.done[0] or count >= max_new_tokens:
                return

    def spans(self) -> Iterator[KeyValues]:
        """Yield the keys and values of what is held, a span of tokens at a time."""
        assert self._cache is not None, "nothing was read"
        architecture, compute = self._forward.architecture, self._forward.execution.compute
        step = span_tokens(architecture, compute=compute, multiple=self._members)
        for start in range(0, self.held, step):
            with jax.set_mesh(self._mesh):
                span = fetch_slots(self._cache, self._slots[start : start + step])
            yield span

    def recall(self, ids: Ids, spans: Iterable[KeyValues]) -> None:
        """Begin anew with what was kept of a sequence, as many tokens of it as the members share evenly.

        Args:
            ids: of the tokens, fewer than a context.
            spans: their keys and values; an error of these leaves nothing held.
        """
        self._hold_nothing()
        cache, start = self._cache_of(len(ids)), 0
        for span in cut(spans, multiple=self._members):
            with jax.set_mesh(self._mesh):
                cache = put_slots(cache, span, start=start)
            start += span.shape[2]
        self._cache, self._ids, self._slots = cache, ids[:start].tolist(), [*range(start)]

    def _hold_nothing(self) -> None:
        self._cache, self._scores, self._ids, self._slots = None, None, [], []

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Set the mesh for what uses up the cache: where that is not finished, nothing is held any more."""
        try:
            with jax.set_mesh(self._mesh):
                yield
        except BaseException:
            self._hold_nothing()
            raise

    def _next_slot(self) -> int:
        """Return the first empty slot that is the first of all members."""
        used = self._slots[-1] + 1 if self._slots else 0
        return -(-used // self._members) * self._members

    def _cache_of(self, slots: int) -> KVCache:
        """Return the cache with so many slots or more.

        The whole context at once where that is not too much: each number of slots is another program.
        """
        held = 0 if self._cache is None else self._cache.order.shape[1]
        if self._cache is not None and slots <= held:
            return self._cache
        context = self._limits.max_context_tokens + self._limits.chunk_tokens
        wanted = max(slots, min(context, self._limits.max_cache_tokens), 2 * held)
        step = _SLOT_STEP * self._members
        with jax.set_mesh(self._mesh):
            if self._cache is not None:
                return grow(self._cache, slots=-(-wanted // step) * step)
            return KVCache.init(
                self._forward.architecture,
                batch=self._rows,
                slots=-(-wanted // step) * step,
                compute=self._forward.execution.compute,
            )


def _shared(held: Sequence[int], ids: Ids) -> int:
    """Return how many ids two sequences begin with alike."""
    length = min(len(held), len(ids))
    differs = np.flatnonzero(np.asarray(held[:length], np.int32) != ids[:length])
    return int(differs[0]) if len(differs) else length
