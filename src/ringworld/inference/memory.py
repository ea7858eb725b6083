"""A context that was read, in a folder: the next question begins at once, tomorrow or on another mesh.

FOLDER/origin.json            kind, versions, and in its identity the model, the type of its cache, and the
                              checksum of memory.json
FOLDER/memory.json            the conversation, and the checksum of each file
FOLDER/context.safetensors    ids [tokens], and the codes of what the conversation shows [frames, codes]
FOLDER/spans/00000.safetensors keys and values [layers, 2, tokens, kv_heads, head] of some tokens, as bits
"""

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ringworld.core.config import read_as, to_json
from ringworld.core.errors import InputError
from ringworld.core.files import sha256_file, write_json_atomic, writing_folder
from ringworld.core.fingerprint import fingerprint
from ringworld.core.origin import ORIGIN_FILE, Origin, check_replaceable, read_origin, write_origin
from ringworld.inference.prompts import Ids
from ringworld.model.config import Architecture, CacheType
from ringworld.model.decode import GenerationWeights
from ringworld.model.forward import Forward
from ringworld.model.key_values import KeyValues
from ringworld.text.templates import Message
from ringworld.text.vocabulary import Vocabulary

_MEMORY_FILE, _CONTEXT_FILE, _SPANS_FOLDER = "memory.json", "context.safetensors", "spans"
_AGAIN = "delete it, and keep the conversation again"


@dataclass(frozen=True, kw_only=True, slots=True)
class Remembering:
    """The model that a memory belongs to, as it is loaded, and the cache that holds it."""

    fingerprint: str
    """What changes with all that keys and values depend on, but for their rounding on another mesh."""
    architecture: Architecture
    compute: str
    """Type of keys and values."""
    vocabulary: Vocabulary
    cache_type: CacheType = "compute"
    """How the cache keeps them: a memory holds what was rounded there, in the compute type."""

    @staticmethod
    def of(
        weights: GenerationWeights, *, forward: Forward, vocabulary: Vocabulary, mesh: Mesh
    ) -> "Remembering":
        """Read all weights once, where they lie."""
        with jax.set_mesh(mesh):
            values = fingerprint((weights, forward.frequencies))
        architecture, compute = forward.architecture, forward.execution.compute
        decisive = [values, to_json(architecture), compute, to_json(vocabulary)]
        return Remembering(
            fingerprint=_sha256(json.dumps(decisive).encode())[:32],
            architecture=architecture,
            compute=compute,
            vocabulary=vocabulary,
        )

    def of_cache(self, cache_type: CacheType) -> "Remembering":
        """Return the same for a cache of another type."""
        return replace(self, cache_type=cache_type)


@dataclass(frozen=True, kw_only=True, slots=True)
class _KeptMessage:
    """A message as `memory.json` has it."""

    role: Literal["system", "user", "assistant"]
    content: tuple[str | int, ...]
    """Its texts, and in place of each clip the number of its frames."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Span:
    """A file of keys and values."""

    sha256: str
    tokens: int
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Contents:
    """What `memory.json` holds."""

    name: str
    created: float
    messages: tuple[_KeptMessage, ...]
    context_sha256: str
    spans: tuple[_Span, ...]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Memory:
    """A conversation, and the keys and values of its beginning, which stay on disk until they are used.

    Example:
        >>> conversation.keep("memories/film", name="A film")
        >>> world.reopen("memories/film").ask("Who enters last?")
    """

    folder: Path
    name: str
    """What people call it."""
    created: float
    """Seconds since 1970."""
    messages: tuple[Message, ...]
    """The turns so far."""
    ids: Ids
    """Those whose keys and values are kept: how the conversation begins, whatever is asked next."""
    size_bytes: int
    """Of the files of keys and values."""
    spans: Iterable[KeyValues]
    """Keys and values, a span of tokens at a time; each file is read and checked when its turn comes, and an
    `InputError` names one that is missing or damaged."""

    @staticmethod
    def open(folder: Path, *, model: Remembering) -> "Memory":
        """Read all but keys and values.

        Args:
            folder: that `save_memory` wrote.
            model: that is to remember.

        Raises:
            InputError: it is no memory or damaged, or another model's or that of a cache of another type.
        """
        identity = read_origin(folder, kind="memory").identity
        for field, ours, remedy in (
            ("model", model.fingerprint, "load the model that kept it, with its weights in the same type"),
            (
                "cache_type",
                model.cache_type,
                "use an engine of that cache_type, or keep the conversation again",
            ),
        ):
            theirs = identity.get(field)
            if theirs != ours:
                raise InputError(
                    f"{folder / ORIGIN_FILE} names the {field} {theirs!r:.40}, and the one that is loaded is "
                    f"{ours!r}",
                    path=folder / ORIGIN_FILE,
                    field=field,
                    value=theirs,
                    remedy=remedy,
                )
        path = folder / _MEMORY_FILE
        _checked(path, identity.get("memory"))
        found = read_as(_Contents, path)
        context = _tensors(folder / _CONTEXT_FILE, found.context_sha256)
        frames = [part for said in found.messages for part in said.content if isinstance(part, int)]
        if not _fits(context, spans=found.spans, frames=frames, vocabulary=model.vocabulary):
            problem = f"{folder / _CONTEXT_FILE} of a memory is damaged: it does not go with {_MEMORY_FILE}"
            raise InputError(problem, path=folder / _CONTEXT_FILE, remedy=_AGAIN)
        clips = iter(np.split(context["codes"], np.cumsum(frames)))
        return Memory(
            folder=folder,
            name=found.name,
            created=found.created,
            messages=tuple(
                Message(
                    role=said.role,
                    content=tuple(part if isinstance(part, str) else next(clips) for part in said.content),
                )
                for said in found.messages
            ),
            ids=context["ids"],
            size_bytes=sum(span.bytes for span in found.spans),
            spans=_Spans(folder / _SPANS_FOLDER, files=found.spans, model=model),
        )


@dataclass(frozen=True, slots=True)
class _Spans:
    """Keys and values of a folder."""

    folder: Path
    files: tuple[_Span, ...]
    model: Remembering

    def __iter__(self) -> Iterator[KeyValues]:
        shape = self.model.architecture
        for i, span in enumerate(self.files):
            path = _span_file(self.folder, i)
            bits = _tensors(path, span.sha256).get("key_values")
            dtype = jnp.dtype(self.model.compute)
            expected = (shape.layers, 2, span.tokens, shape.kv_heads, shape.head)
            if bits is None or bits.shape != expected or bits.itemsize != dtype.itemsize:
                problem = f"{path} of a memory is damaged: it does not hold keys and values {expected}"
                raise InputError(problem, path=path, remedy=_AGAIN)
            yield bits.view(dtype)


def save_memory(
    folder: Path,
    *,
    name: str,
    messages: Sequence[Message],
    ids: Ids,
    spans: Iterable[KeyValues],
    model: Remembering,
) -> None:
    """Write a memory whole, in place of one that stood there.

    Args:
        folder: to be written.
        name: what people call it.
        messages: the conversation.
        ids: how it begins, whatever is asked next.
        spans: keys and values, in order; ids beyond them are dropped.
        model: that read them.

    Raises:
        InputError: something else stands there, or there are no spans.
    """
    check_replaceable(folder, kind="memory")
    with writing_folder(folder) as unfinished:
        (unfinished / _SPANS_FOLDER).mkdir()
        kept: list[_Span] = []
        for i, span in enumerate(spans):
            content = save({"key_values": np.ascontiguousarray(span).view(f"uint{8 * span.dtype.itemsize}")})
            _span_file(unfinished / _SPANS_FOLDER, i).write_bytes(content)
            kept.append(_Span(sha256=_sha256(content), tokens=span.shape[2], bytes=len(content)))
        if not kept:
            raise InputError(
                "the conversation is too short to be kept",
                field="messages",
                remedy="keep one that holds a document, or an answer about what it shows",
            )
        clips = [clip for message in messages for clip in message.clips]
        codes = np.concatenate(clips) if clips else np.zeros((0, model.vocabulary.codes_per_frame))
        held = sum(span.tokens for span in kept)
        context = save({"ids": np.ascontiguousarray(ids[:held]), "codes": codes.astype(np.int32)})
        (unfinished / _CONTEXT_FILE).write_bytes(context)
        contents = _Contents(
            name=name,
            created=time.time(),
            messages=tuple(
                _KeptMessage(
                    role=message.role,
                    content=tuple(part if isinstance(part, str) else len(part) for part in message.content),
                )
                for message in messages
            ),
            context_sha256=_sha256(context),
            spans=tuple(kept),
        )
        write_json_atomic(unfinished / _MEMORY_FILE, to_json(contents))
        identity = {
            "model": model.fingerprint,
            "cache_type": model.cache_type,
            "memory": sha256_file(unfinished / _MEMORY_FILE),
        }
        write_origin(unfinished, Origin(kind="memory", identity=identity))


def _span_file(folder: Path, index: int) -> Path:
    return folder / f"{index:05d}.safetensors"


def _fits(
    context: Mapping[str, np.ndarray],
    *,
    spans: Sequence[_Span],
    frames: Sequence[int],
    vocabulary: Vocabulary,
) -> bool:
    """Return whether ids and codes are those of so many tokens and frames, so that nothing fails later."""
    if context.keys() != {"ids", "codes"} or any(each.dtype != np.int32 for each in context.values()):
        return False
    ids, codes = context["ids"], context["codes"]
    known = codes.size == 0 or 0 <= codes.min() <= codes.max() < vocabulary.codes
    whole = min(frames, default=1) > 0 and codes.shape == (sum(frames), vocabulary.codes_per_frame)
    return whole and known and ids.shape == (sum(span.tokens for span in spans),)


def _checked(path: Path, sha256: Any) -> bytes:
    """Return what a file holds.

    Raises:
        InputError: it is missing, or not what was written.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        problem = f"{path} of a memory cannot be read ({error.strerror or error})"
        raise InputError(problem, path=path, remedy=_AGAIN) from None
    if _sha256(content) != sha256:
        problem = (
            f"{path} of a memory is damaged: the checksum of its {len(content)} bytes is not the one kept"
        )
        raise InputError(problem, path=path, remedy=_AGAIN)
    return content


def _tensors(path: Path, sha256: str) -> dict[str, np.ndarray]:
    try:
        return load(_checked(path, sha256))
    except SafetensorError as error:
        raise InputError(f"{path} of a memory is damaged ({error})", path=path, remedy=_AGAIN) from None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
