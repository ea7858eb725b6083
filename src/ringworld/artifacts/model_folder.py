"""A model as one self-contained folder, which transformers and diffusers open too.

FOLDER/config.json                  of `LlamaForCausalLM`; our own values under the key `ringworld`
FOLDER/model.safetensors            or model-*-of-*.safetensors with an index
FOLDER/generation_config.json       how it is sampled by default
FOLDER/tokenizer.json, ...          see `ringworld.artifacts.tokenizers`
FOLDER/frame_tokenizer/             of diffusers' `VQModel`; absent for a model of text alone
FOLDER/origin.json                  command, versions, data and parent
"""

import hashlib
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from ringworld.artifacts.adapter_folder import AdapterFolder, is_adapter
from ringworld.artifacts.tokenizers import Tokenizers
from ringworld.core.config import from_json, read_as
from ringworld.core.errors import InputError
from ringworld.core.files import sha256_file, write_json_atomic, writing_folder
from ringworld.core.fingerprint import fingerprint
from ringworld.core.origin import ORIGIN_FILE, Origin, check_replaceable, made_by, read_origin, write_origin
from ringworld.core.processes import by_all, by_writer, is_writer
from ringworld.core.shared_files import OUR_KEY
from ringworld.interop.hf_config import CONFIG_FILE, hf_config, longest_context, read_architecture
from ringworld.interop.hf_folder import GENERATION_FILE
from ringworld.interop.hf_llama import (
    Adapt,
    read_generation_weights,
    read_weights,
    weight_files,
    write_weights,
)
from ringworld.interop.other_model import OtherModel
from ringworld.interop.tensors import write_tensors
from ringworld.model.config import Architecture, WeightType
from ringworld.model.decode import GenerationWeights
from ringworld.model.world_model import WorldModel
from ringworld.text.vocabulary import Vocabulary

_DRAWN = ("temperature", "top_k", "top_p", "min_p")
"""What transformers heeds where `do_sample` is true."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ModelFolder:
    """A model on disk: everything but its weights, which `read_weights` places on a mesh."""

    path: Path
    """Of an adapter, the folder of the model that it is added to."""
    architecture: Architecture
    """With the rope base that the model ended with."""
    tokenizers: Tokenizers
    vocabulary: Vocabulary
    context_tokens: int
    """Longest context that it is for: as a rule, that it was trained on (`hf_config.longest_context`)."""
    generation: Mapping[str, Any]
    """Defaults of generation, as whoever saved the model wrote them, for ringworld or for transformers."""
    ends: tuple[int, ...]
    """The ids after each of which a text is finished."""
    origin: Origin | None
    """None for a folder that ringworld did not write."""
    adapter: AdapterFolder | None = None
    """What is added to the weights when they are read."""

    @staticmethod
    def open(path: Path, *, adapter: Path | None = None) -> "ModelFolder":
        """Read everything but the weights.

        Args:
            path: a model folder, or an adapter folder, which names its model.
            adapter: folder of an adapter of the model.

        Raises:
            InputError: it is no folder of a LLaMA-shaped model, its parts do not fit together, or the adapter
                is of another model.
        """
        if adapter is not None:
            return _with_adapter(AdapterFolder.open(adapter), path)
        if is_adapter(path):
            opened = AdapterFolder.open(path)
            return _with_adapter(opened, opened.base)
        config = path / CONFIG_FILE
        if not path.is_dir():
            remedy = f"convert it first: ringworld convert {path} --out FOLDER" if path.is_file() else ""
            raise InputError(f"there is no model folder {path}", path=path, remedy=remedy)
        if not config.exists():
            raise InputError(
                f"{path} is not a model folder: it has no {CONFIG_FILE}",
                path=path,
                remedy=_where_models_are(path),
            )
        architecture, tokenizers = read_architecture(path), Tokenizers.load(path)
        described = read_as(dict[str, Any], config)
        generation = path / GENERATION_FILE
        theirs = read_as(dict[str, Any], generation) if generation.exists() else {}
        ours = from_json(dict[str, Any], theirs.get(OUR_KEY) or _sampling_of(theirs), where=generation)
        vocabulary = tokenizers.vocabulary(text_vocab=architecture.text_vocab)
        if vocabulary.vision_size > architecture.vision_vocab:
            raise InputError(
                f"the frame tokenizer of {path} needs {vocabulary.vision_size} ids for vision, but the model "
                f"has {architecture.vision_vocab}",
                path=path,
            )
        return ModelFolder(
            path=path,
            architecture=architecture,
            tokenizers=tokenizers,
            vocabulary=vocabulary,
            context_tokens=longest_context(described),
            generation=ours,
            ends=_ends(
                theirs.get("eos_token_id", described.get("eos_token_id")), tokenizers.text_tokenizer.eos
            ),
            origin=read_origin(path, kind="model") if (path / ORIGIN_FILE).exists() else None,
        )

    @property
    def configuration(self) -> Any:
        """What the run was configured with that made it, or its adapter; None if no run did."""
        origins = (self.adapter.origin if self.adapter else None, self.origin)
        return next((one.configuration for one in origins if one is not None), None)

    @property
    def fingerprint(self) -> str:
        """What changes with any weight; of a folder that ringworld did not write, with any byte of them.

        Raises:
            InputError: its origin was edited.
        """
        if self.adapter is not None:
            both = replace(self, adapter=None).fingerprint + self.adapter.fingerprint
            return hashlib.sha256(both.encode()).hexdigest()
        if self.origin is not None and "weights" in self.origin.identity:
            return from_json(str, self.origin.identity["weights"], where=self.path / ORIGIN_FILE)
        return fingerprint_of_files(self.path)

    def read_weights(self, mesh: Mesh, *, weights: WeightType = "float32") -> WorldModel:
        """Read weights, to be trained in float32 or adapted in any type; each goes straight to its shards.

        Raises:
            InputError: a tensor is missing, unknown, damaged or of another shape.
        """
        with jax.set_mesh(mesh):
            return read_weights(self.path, self.architecture, weights=weights, adapt=self.adapt)

    def read_generation_weights(
        self, mesh: Mesh, *, compute: str, weights: WeightType | None = None
    ) -> GenerationWeights:
        """Read weights ready for inference, in the compute type or another; otherwise as `read_weights`."""
        with jax.set_mesh(mesh):
            return read_generation_weights(
                self.path, self.architecture, compute=compute, weights=weights, adapt=self.adapt
            )

    @property
    def adapt(self) -> Adapt | None:
        """Return what adds the adapter to a part of a tensor, if there is one."""
        return None if self.adapter is None else self.adapter.adapter.added_to


def save_model(
    folder: Path,
    model: WorldModel,
    *,
    architecture: Architecture,
    tokenizers: Tokenizers,
    context_tokens: int,
    generation: Mapping[str, Any],
    origin: Origin,
    mesh: Mesh,
) -> None:
    """Write a model folder whole, in place of one that stood there; it is there when this returns.

    Every process whose devices hold some of the weights calls this, and one writes.

    Weights are float32 and lie on `mesh`, `generation` is JSON, and the identity of `origin` gains the
    fingerprint of the weights; the rest is as in `ModelFolder`.

    Raises:
        InputError: something else stands there.
    """
    by_writer(lambda: check_replaceable(folder, kind="model"))
    bos, eos = tokenizers.text_tokenizer.bos, tokenizers.text_tokenizer.eos
    with jax.set_mesh(mesh):
        identity = {**origin.identity, "weights": fingerprint(model)}

    def finish(unfinished: Path) -> None:
        config = hf_config(architecture, context_tokens=context_tokens, bos=bos, eos=eos)
        write_json_atomic(unfinished / CONFIG_FILE, config)
        write_json_atomic(
            unfinished / GENERATION_FILE,
            {"bos_token_id": bos, "eos_token_id": eos, OUR_KEY: dict(generation)},
        )
        tokenizers.save(unfinished)
        write_origin(unfinished, replace(origin, identity=identity))

    def write() -> None:
        with writing_folder(folder) if is_writer() else nullcontext() as unfinished:
            with jax.set_mesh(mesh):
                write_weights(unfinished, model, architecture)
            if unfinished is not None:
                finish(unfinished)

    by_all(write)


def save_other_model(
    folder: Path, model: OtherModel, *, tokenizers: Tokenizers, origin: Origin | None
) -> None:
    """Write anyone's model as a model folder, whole; of its weights, one tensor at a time is in memory.

    Args:
        folder: its path.
        model: all but its tokenizer.
        tokenizers: of words and, where it sees, of frames.
        origin: where it comes from; the fingerprint of the weights is added to its identity. None leaves it
            out, so that the folder belongs to no run.
    """
    with writing_folder(folder) as unfinished:
        write_tensors(unfinished, model.tensors)
        write_json_atomic(unfinished / CONFIG_FILE, dict(model.config))
        if model.generation:  # an empty file would hide from transformers what config.json says ends a text
            write_json_atomic(unfinished / GENERATION_FILE, dict(model.generation))
        tokenizers.save(unfinished)
        if origin is not None:
            identity = {**origin.identity, "weights": fingerprint_of_files(unfinished)}
            write_origin(unfinished, replace(origin, identity=identity))


def fingerprint_of_files(folder: Path) -> str:
    """Return what changes with any byte of the weights of a folder."""
    files = sorted(folder.glob("*.safetensors"))
    return hashlib.sha256("".join(map(sha256_file, files)).encode()).hexdigest()


def is_saved(folder: Path, origin: Origin) -> bool:
    """Return whether a folder holds the model of an origin already, so that a resumed run can leave it.

    One from which a part was deleted, as remedies of damage say, is written again.
    """
    try:
        found = ModelFolder.open(folder)
        weight_files(folder, found.architecture)
    except InputError:
        return False
    return made_by(found.origin, origin)


def _with_adapter(adapter: AdapterFolder, path: Path) -> ModelFolder:
    """Return the model of a folder with an adapter.

    Raises:
        InputError: it was trained for another, as fingerprints say or else the shapes of its matrices.
    """
    if is_adapter(path):
        problem = f"{path} is an adapter itself, to which no other is added"
        raise InputError(problem, field="adapter", path=path, remedy="merge it into its model with convert")
    model = ModelFolder.open(path)
    known = adapter.base_fingerprint
    if known and known != model.fingerprint:
        raise InputError(
            f"the adapter in {adapter.path} was trained for another model than the one in {path}, whose "
            f"fingerprint is {model.fingerprint} and not {known}",
            field="adapter",
            value=known,
            path=adapter.path,
            remedy="name the model that it was trained for",
        )
    adapter.adapter.check(model.architecture)
    return replace(model, adapter=adapter)


def _ends(described: Any, eos: int) -> tuple[int, ...]:
    """Return the ends that a configuration names, one or several, with that of the tokenizer."""
    named = described if isinstance(described, list) else [described]
    whole = (id for id in named if isinstance(id, int) and not isinstance(id, bool) and 0 <= id < 2**31)
    return tuple(dict.fromkeys([eos, *whole]))


def _sampling_of(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Return how text is drawn, of a `generation_config.json` that ringworld did not write.

    Only what the file says: transformers has a `top_k` of 50 where it says nothing.
    """
    names = ("repetition_penalty", *(_DRAWN if theirs.get("do_sample") is True else ()))
    said = {name: theirs[name] for name in names if theirs.get(name) is not None}
    if theirs.get("do_sample") is True:
        said = {"temperature": 1.0, **said}
    return {"sampling": {"text": said, "answer": said}} if said else {}


def _where_models_are(path: Path) -> str:
    found = sorted(path.glob(f"models/*/{CONFIG_FILE}"), key=lambda config: config.stat().st_mtime)
    found += path.glob(f"model/{CONFIG_FILE}")
    return (
        f"name one of its models, such as {found[-1].parent}" if found else "name a folder that train wrote"
    )
