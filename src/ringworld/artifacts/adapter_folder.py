"""A LoRA adapter as one folder, which peft opens too.

FOLDER/adapter_config.json         names the model that it was trained for
FOLDER/adapter_model.safetensors   two thin matrices for each that it changes
FOLDER/origin.json                 command, versions, data, and the fingerprint of that model
"""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import jax
from jax.sharding import Mesh

from ringworld.core.config import from_json
from ringworld.core.errors import InputError, plain
from ringworld.core.files import sha256_file, writing_folder
from ringworld.core.origin import ORIGIN_FILE, Origin, check_replaceable, made_by, read_origin, write_origin
from ringworld.core.processes import by_all, by_writer, is_writer
from ringworld.interop.hf_adapter import ADAPTER_CONFIG_FILE, HfAdapter, write_adapter
from ringworld.model.config import Architecture
from ringworld.model.lora_config import LoraConfig
from ringworld.model.world_model import WorldModel


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AdapterFolder:
    """An adapter on disk, of ringworld or of peft."""

    path: Path
    adapter: HfAdapter
    origin: Origin | None
    """None for a folder that ringworld did not write."""

    @staticmethod
    def open(path: Path) -> "AdapterFolder":
        """Read everything but the matrices.

        Raises:
            InputError: it is no adapter folder, damaged, or an adapter of a kind that cannot be added.
        """
        if not is_adapter(path):
            problem = f"{path} is not an adapter folder: it has no {ADAPTER_CONFIG_FILE}"
            raise InputError(problem, field="adapter", path=path, remedy="name one that train or peft wrote")
        origin = read_origin(path, kind="adapter") if (path / ORIGIN_FILE).exists() else None
        return AdapterFolder(path=path, adapter=HfAdapter.open(path), origin=origin)

    @property
    def fingerprint(self) -> str:
        """What changes with any byte of the matrices."""
        return sha256_file(self.adapter.file)

    @property
    def base(self) -> Path:
        """The folder of the model that it was trained for.

        Raises:
            InputError: it is not there, or the adapter names no folder.
        """
        named = self.adapter.base
        if not named or not Path(named).is_dir():
            called = plain(named) or "a model without a name"
            raise InputError(
                f"the adapter in {self.path} was trained for {called}, which is no folder here",
                field="model",
                value=named,
                path=self.path,
                remedy=f"write the path of its model folder as base_model_name_or_path into its "
                f"{ADAPTER_CONFIG_FILE}, or call load(model, adapter=...)",
            )
        return Path(named)

    @property
    def base_fingerprint(self) -> str | None:
        """That of the model that it was trained for; None where ringworld did not write it.

        Raises:
            InputError: its origin was edited.
        """
        if self.origin is None:
            return None
        base = from_json(dict[str, str], self.origin.parents.get("init"), where=self.path / ORIGIN_FILE)
        return base.get("fingerprint")


def is_adapter(path: Path) -> bool:
    """Return whether a folder holds an adapter."""
    return (path / ADAPTER_CONFIG_FILE).exists()


def save_adapter(
    folder: Path,
    model: WorldModel,
    *,
    architecture: Architecture,
    config: LoraConfig,
    base: Path,
    origin: Origin,
    mesh: Mesh,
) -> None:
    """Write an adapter folder whole, in place of one that stood there; it is there when this returns.

    Every process whose devices hold some of the weights calls this, and one writes.

    Args:
        folder: its path.
        model: with the adapter beside its matrices, on `mesh`.
        architecture: of the model.
        config: what the adapter was made with.
        base: folder of the model without it.
        origin: whose parents name the model as `init`; its identity gains the fingerprint of the matrices.
        mesh: where the model lies.

    Raises:
        InputError: something else stands there.
    """
    by_writer(lambda: check_replaceable(folder, kind="adapter"))

    def write() -> None:
        with writing_folder(folder) if is_writer() else nullcontext() as unfinished:
            with jax.set_mesh(mesh):
                write_adapter(unfinished, model, architecture, config=config, base=str(base.resolve()))
            if unfinished is not None:
                weights = AdapterFolder.open(unfinished).fingerprint
                write_origin(unfinished, replace(origin, identity={**origin.identity, "weights": weights}))

    by_all(write)


def is_saved_adapter(folder: Path, origin: Origin) -> bool:
    """Return whether a folder holds the adapter of an origin already, so that a resumed run can leave it."""
    try:
        found = AdapterFolder.open(folder)
    except InputError:
        return False
    return made_by(found.origin, origin)
