"""`ringworld prepare`: a user's files to examples on disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from ringworld.cli.options import ConfigFolder, Folders, PresetName, given, otherwise
from ringworld.presets.run import RunConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepare:
    """Turn videos, images and texts into tokenized examples: ArrayRecord shards with a Parquet manifest."""

    out: Path
    """Folder for the examples."""
    tokenizer: Path
    """Folder that train-tokenizer wrote, or a model folder."""
    videos: Folders = ()
    """Folders or files of videos and images, JSON lines, Parquet or tars; captions stand beside."""
    texts: Folders = ()
    """Folders or files of text (.txt, .md), JSON lines, Parquet or tars."""
    workers: Annotated[int | None, otherwise("as many as there are cores", metavar="INT")] = None
    """Processes that read files; the examples do not depend on their number."""
    engine: Literal["pool", "ray"] = "pool"
    """Read on this machine, or on those of a Ray cluster that shares its file system."""
    preset: PresetName = None
    config: ConfigFolder = None

    def run(self, config: RunConfig) -> None:
        """Prepare what is not prepared yet, and print counts and what was quarantined."""
        import ringworld as rw

        report = rw.prepare(config, **given(self, "videos", "texts", "tokenizer", "out", "workers", "engine"))
        print("\n".join(report.lines()))
