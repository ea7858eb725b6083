"""`ringworld serve`: answer requests over HTTP."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ringworld.cli.options import Devices, Weights, otherwise


@dataclass(frozen=True, kw_only=True, slots=True)
class Serve:
    """Serve a model over HTTP, in the protocol of OpenAI's API, until Ctrl-C."""

    model: Path
    """Model folder."""
    name: Annotated[str | None, otherwise("the name of the folder", metavar="TEXT")] = None
    """What requests call the model."""
    host: str = "127.0.0.1"
    """Address to listen at; others may reach it only with a key."""
    port: int = 8000
    """Port to listen at; 0 takes one that is free."""
    key_file: Annotated[Path | None, otherwise("$RINGWORLD_API_KEYS", metavar="PATH")] = None
    """Text file with a key a line, one of which each request must show."""
    no_key: tyro.conf.FlagCreatePairsOff[bool] = False
    """Let everybody ask who reaches the address, also others."""
    context_tokens: Annotated[int | None, otherwise("as it was trained on", metavar="INT")] = None
    """Longest prompt with what follows it."""
    max_sequences: int = 16
    """Texts that are written together; a step costs as much for fewer."""
    cache_tokens: Annotated[int | None, otherwise("one context, or two of up to 32K", metavar="INT")] = None
    """Tokens that the cache holds, of all texts and of earlier ones."""
    chunk_tokens: int = 256
    """Most tokens of prompts that are read between two steps."""
    max_waiting: int = 128
    """Texts that may wait; more are refused."""
    weights: Weights = None
    """Type in which weights are kept; int8 rounds them, each output channel by itself."""
    devices: Devices = None
    """Devices of the ring; without an accelerator they are simulated."""

    def run(self) -> None:
        """Serve until a signal comes."""
        from ringworld.api.serve import serve
        from ringworld.inference.config import EngineConfig

        serve(
            self.model,
            name=self.name,
            host=self.host,
            port=self.port,
            key_file=self.key_file,
            without_key=self.no_key,
            context_tokens=self.context_tokens,
            engine=EngineConfig(
                max_sequences=self.max_sequences,
                cache_tokens=self.cache_tokens,
                chunk_tokens=self.chunk_tokens,
                max_waiting=self.max_waiting,
            ),
            weights=self.weights,
            devices=self.devices,
        )
