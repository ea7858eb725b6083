"""`ringworld serve`: answer requests over HTTP."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ringworld.cli.options import Loaded, LoadOptions, given, otherwise
from ringworld.inference.config import EngineConfig
from ringworld.serving.config import ServingLimits


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
    memory_folder: Annotated[Path | None, otherwise("none are kept", metavar="PATH")] = None
    """Folder of memories: conversations that were kept with what was read of them."""
    allow_host: Annotated[tuple[str, ...], otherwise("nothing is fetched", metavar="[HOST [HOST ...]]")] = ()
    """Hosts from which pictures and films are fetched that requests name by an address."""
    context_tokens: Annotated[int | None, otherwise("as it was trained on", metavar="INT")] = None
    """Longest prompt with what follows it."""
    engine: Annotated[EngineConfig, tyro.conf.arg(name="")] = EngineConfig()
    limits: Annotated[ServingLimits, tyro.conf.arg(name="")] = ServingLimits()
    loading: Loaded = LoadOptions()

    def run(self) -> None:
        """Serve until a signal comes."""
        import ringworld as rw

        names = "name", "host", "port", "key_file", "memory_folder", "allow_host", "context_tokens", "engine"
        options = given(self, *names, "limits") | asdict(self.loading)
        rw.serve(self.model, without_key=self.no_key, **options)
