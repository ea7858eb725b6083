"""`ringworld serve`: a model folder behind HTTP."""

import os
import sys
from pathlib import Path

from ringworld.api.load import load
from ringworld.api.machine import PathArgument
from ringworld.core.errors import InputError
from ringworld.inference.config import EngineConfig
from ringworld.model.config import WeightType
from ringworld.serving.config import ServingConfig, ServingLimits
from ringworld.text.read_text import read_text

KEYS_VARIABLE = "RINGWORLD_API_KEYS"
_MOST_BYTES = 2**20


def serve(
    model: PathArgument,
    *,
    name: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    key_file: PathArgument | None = None,
    without_key: bool = False,
    memory_folder: PathArgument | None = None,
    allow_host: tuple[str, ...] = (),
    context_tokens: int | None = None,
    engine: EngineConfig | None = None,
    limits: ServingLimits | None = None,
    weights: WeightType | None = None,
    devices: int | None = None,
) -> None:
    """Serve a model until it is stopped.

    Args:
        model: model folder.
        name: what requests call it; by default the name of the folder.
        host: address to listen at.
        port: 0 takes one that is free.
        key_file: text file with a key a line; by default `$RINGWORLD_API_KEYS`, with commas between keys.
        without_key: whether everybody may ask, whoever reaches the address.
        memory_folder: where conversations are kept with what was read of them, made for its owner alone where
            there is none; None keeps none.
        allow_host: hosts from which pictures and films are fetched that requests name by an address.
        context_tokens: longest prompt with what follows it, as in `load`.
        engine: how much is done at once.
        limits: how much is taken from those who ask.
        weights: how weights are kept, as in `load`.
        devices: of the ring.

    Raises:
        InputError: the model or the address cannot be used, a key is missing or too short, or the packages
            of serving are not installed.
    """
    try:
        from ringworld.serving.server import run
    except ModuleNotFoundError as error:
        problem = f"serving needs the package {error.name}"
        raise InputError(problem, field="serve", remedy="pip install 'ringworld[serve]'") from None
    memories = None if memory_folder is None else Path(memory_folder)
    config = ServingConfig(
        name=name or Path(model).resolve().name,
        host=host,
        port=port,
        keys=_keys(None if key_file is None else Path(key_file)),
        without_key=without_key,
        limits=limits or ServingLimits(),
        memory_folder=memories,
        allow_host=allow_host,
    )
    world = load(model, devices=devices, weights=weights, context_tokens=context_tokens)
    if memories is not None:
        # They say in the clear what was said.
        memories.mkdir(mode=0o700, parents=True, exist_ok=True)

    def announce(address: str) -> None:
        print(f"{config.name} is served at {address}/v1; Ctrl-C stops it", file=sys.stderr, flush=True)

    run(world, config=config, engine=engine or EngineConfig(), on_ready=announce)


def _keys(file: Path | None) -> tuple[str, ...]:
    if file is None:
        given = os.environ.get(KEYS_VARIABLE, "").split(",")
    else:
        given = read_text(file, max_bytes=_MOST_BYTES).splitlines()
    keys = tuple(key.strip() for key in given if key.strip())
    if file is not None and not keys:
        raise InputError(f"{file} holds no key", field="key_file", path=file, remedy="write one a line")
    return keys
