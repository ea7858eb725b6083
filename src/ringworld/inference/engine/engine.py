"""The engine: one thread that reads and writes for all who ask, a round at a time."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from ringworld.core.errors import InputError
from ringworld.core.mesh import members_of
from ringworld.core.sharding import BATCH_AXES, SEQ_AXES
from ringworld.inference.batches import check_fits
from ringworld.inference.config import EngineConfig, GenerationLimits
from ringworld.inference.engine.cache_size import CacheSize
from ringworld.inference.engine.inbox import Closed, Inbox
from ringworld.inference.engine.programs import Programs
from ringworld.inference.engine.rounds import Rounds
from ringworld.inference.engine.scheduler import Scheduler
from ringworld.inference.engine.sequence import GenerationRequest, LiveSequence, Piece
from ringworld.inference.engine.state import EngineState
from ringworld.inference.grammar import frame_grammar
from ringworld.inference.prompts import Ids
from ringworld.model.config import CacheType
from ringworld.model.decode import GenerationWeights
from ringworld.model.forward import Forward
from ringworld.text.vocabulary import Vocabulary

_CHECK_SECONDS = 0.1
Deliver = Callable[[Piece | BaseException], None]
T = TypeVar("T")


class Engine:
    """One model that continues many prompts at once, with text or frames; they join and leave at every step.

    What a request gives does not depend, to the bit, on what it is batched with, since a step has one shape,
    whoever is in its rows, and a chunk is of one sequence. Excepted are tokens that another program read: a
    prefix that is found in the cache was read in other chunks, and a sequence that gave up its pages reads in
    chunks what it wrote. Scores may then differ by the rounding of the type.

    Example:
        >>> with world.engine() as engine:
        ...     for piece in engine.stream(GenerationRequest(prompt=ids, max_new_tokens=64)):
        ...         print(piece.text, end="", flush=True)
    """

    def __init__(
        self,
        weights: GenerationWeights,
        *,
        forward: Forward,
        vocabulary: Vocabulary,
        ends: Sequence[int],
        decode: Callable[[Sequence[int]], str],
        mesh: Mesh,
        limits: GenerationLimits,
        config: EngineConfig,
    ) -> None:
        """Make the cache, and start the thread; arguments as for `Generator`, and `decode`, the text of ids.

        Raises:
            InputError: the cache holds less than a context, or the mesh cuts a batch.
        """
        if members_of(mesh, BATCH_AXES) != 1:
            problem = "an engine has one pool of pages, which a mesh with data axes would cut"
            raise InputError(problem, field="mesh", value=mesh.shape, remedy="use a mesh of a ring alone")
        self._config, self._mesh = config, mesh
        self._size = CacheSize.of(
            config, context_tokens=limits.max_context_tokens, members=members_of(mesh, SEQ_AXES)
        )
        self._vocab = forward.architecture.vocab
        self._vocabulary, self._ends, self._decode = vocabulary, frozenset(ends), decode
        with jax.set_mesh(mesh):
            programs = Programs(
                weights,
                forward=forward,
                vocabulary=vocabulary,
                mesh=mesh,
                size=self._size,
                cache_type=config.cache_type,
            )
        self._rounds = Rounds(programs, size=self._size)
        # The rounds belong to the thread; others leave here what they want of it.
        self._inbox = Inbox(max_waiting=config.max_waiting)
        self._thread = threading.Thread(target=self._run, name="ringworld-engine", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, request: GenerationRequest, deliver: Deliver) -> Callable[[], None]:
        """Accept a request, without waiting for it.

        Args:
            request: what is asked.
            deliver: called on the engine's thread with each piece, the last of which has a `finish`, or with
                the error that ends the request. It returns soon, and raises nothing.

        Returns:
            What cancels the request, from any thread: nothing more is delivered but what is on its way.

        Raises:
            InputError: the prompt does not fit into the context with what follows it, or holds no ids; the
                model draws no frames, or guidance needs more than the engine has.
            Busy: as many requests wait as may.
            Closed: the engine is closed.
        """
        self._check(request)
        sequence = LiveSequence(request, ends=self._ends, decode=self._decode, deliver=deliver)
        self._inbox.put(sequence, others=lambda: len(self._rounds.scheduler.waiting))

        def cancel() -> None:
            sequence.cancelled = True

        return cancel

    def _check(self, request: GenerationRequest) -> None:
        """Refuse what can never be continued here; see `submit`."""
        if request.frames:
            wanted = frame_grammar(self._vocabulary, frames=request.frames).last + 1
            if request.max_new_tokens != wanted:
                problem = f"{request.frames} frames are {wanted} tokens, not {request.max_new_tokens}"
                raise InputError(problem, field="max_new_tokens", value=request.max_new_tokens)
        prompts = [each for each in (request.prompt, request.unconditional) if each is not None]
        for prompt, tokens in zip(prompts, request.most_tokens, strict=True):
            count, context = len(prompt), self._size.context_tokens
            check_fits(count, new_tokens=tokens - count, context_tokens=context)
            if not 0 <= prompt.min() <= prompt.max() < self._vocab:
                raise InputError(f"a prompt holds ids that are none of {self._vocab}", field="prompt")
        self._size.check_room(request)

    def stream(self, request: GenerationRequest) -> Iterator[Piece]:
        """Yield what comes of a request; a caller that stops cancels it.

        Raises:
            InputError: as for `submit`.
            Busy: likewise.
            Closed: likewise, or the engine was closed meanwhile.
        """
        pieces: SimpleQueue[Piece | BaseException] = SimpleQueue()
        cancel = self.submit(request, pieces.put)
        return _until_finished(pieces, cancel)

    def between_rounds(self, job: Callable[[Scheduler, Programs], T]) -> Future[T]:
        """Let a job run on the engine's thread, where nothing else uses the cache.

        Args:
            job: takes the scheduler and the programs, and returns soon.

        Returns:
            What it will have given or raised; `Closed` where the engine is closed before. A job that is
            cancelled before its turn does not run.

        Raises:
            Closed: the engine is closed.
        """
        return self._inbox.ask(job)

    def hold(self, ids: Ids, *, check: Callable[[], object]) -> tuple[Scheduler, list[int]]:
        """Read ids, and hold the pages that are known to begin so, before any can be given to others.

        Args:
            ids: of a prompt.
            check: called now and then; what it raises ends the reading.

        Returns:
            The scheduler whose pages they are, and the pages, which the caller releases there.

        Raises:
            InputError: as for `submit`.
            Busy: likewise.
            Closed: likewise.
        """
        held: Future[tuple[Scheduler, list[int]]] = Future()
        tokens = ids.tolist()

        def deliver(piece: Piece | BaseException) -> None:
            is_last = isinstance(piece, BaseException) or piece.finish is not None
            if not is_last or not held.set_running_or_notify_cancel():
                return
            if isinstance(piece, BaseException):
                held.set_exception(piece)
            else:
                scheduler = self._rounds.scheduler
                held.set_result((scheduler, scheduler.hold(tokens)))

        cancel = self.submit(GenerationRequest(prompt=ids, max_new_tokens=1), deliver)
        try:
            while not wait([held], timeout=_CHECK_SECONDS).done:
                check()
        except BaseException:
            cancel()
            if not held.cancel() and held.exception() is None:
                scheduler, pages = held.result()
                with contextlib.suppress(Closed):
                    self.between_rounds(lambda _, __: scheduler.pages.release(pages))
            raise
        return held.result()

    def warm_up(self) -> None:
        """Compile what requests will need: a step, chunks of each size, and scores of what they read."""
        page = size = self._size.page_tokens
        while size <= min(self._size.chunk_tokens, self._size.context_tokens - 2):
            # Each with ids of its own, so that nothing is reused.
            prompt = np.full(size + 1, size // page, np.int32)
            for scores in (False, True):
                request = GenerationRequest(prompt=prompt, max_new_tokens=1, score_prompt=scores)
                for _ in self.stream(request):
                    pass
            size *= 2

    @property
    def size(self) -> CacheSize:
        """How large the cache is."""
        return self._size

    @property
    def cache_type(self) -> CacheType:
        """How it keeps keys and values."""
        return self._config.cache_type

    @property
    def closed(self) -> bool:
        """Whether nothing more is accepted."""
        return self._inbox.closed

    @property
    def state(self) -> EngineState:
        """What it has done so far, and does now."""
        rounds, scheduler = self._rounds, self._rounds.scheduler
        return EngineState(
            waiting=len(self._inbox) + len(scheduler.waiting),
            running=len(scheduler.running),
            held_pages=scheduler.pages.held,
            pages=scheduler.pages.count,
            read_tokens=rounds.read_tokens,
            reused_tokens=rounds.reused_tokens,
            written_tokens=rounds.written_tokens,
            steps=rounds.steps,
            preempted=rounds.preempted,
        )

    def close(self) -> None:
        """End all requests with `Closed`, and the thread."""
        self._inbox.close()
        self._thread.join()

    def _run(self) -> None:
        rounds = self._rounds
        try:
            with jax.set_mesh(self._mesh):
                while self._begin_round():
                    try:
                        rounds.run()
                    except Exception as error:
                        rounds.begin_again(error)
        finally:
            self._inbox.close()
            for job in self._inbox.take(rounds.scheduler.waiting, wait=False):
                job.end(Closed("the engine was closed"))
            for sequence in rounds.everyone:
                sequence.deliver(Closed("the engine was closed"))

    def _begin_round(self) -> bool:
        """Wait for something to do; False where the engine is closed."""
        rounds = self._rounds
        for job in self._inbox.take(rounds.scheduler.waiting, wait=not rounds.everyone):
            job.run(rounds.scheduler, rounds.programs)
        rounds.forget_cancelled()
        return not self._inbox.closed


def _until_finished(
    pieces: SimpleQueue[Piece | BaseException], cancel: Callable[[], None]
) -> Iterator[Piece]:
    try:
        while True:
            piece = pieces.get()
            if isinstance(piece, BaseException):
                raise piece
            yield piece
            if piece.finish is not None:
                return
    finally:
        cancel()
