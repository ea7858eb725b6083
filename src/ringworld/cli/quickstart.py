"""`ringworld quickstart`: the whole path, from files to a report."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ringworld.cli.options import Devices, Folders
from ringworld.quickstart.config import QuickstartConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Quickstart:
    """Do everything once, small but real: tokenizers, preparation, training in stages, generation, report."""

    out: Path
    """Folder for everything; the same command on it resumes where it was stopped."""
    videos: Folders = ()
    """Folders or files of your own videos and images, besides the toy world that is rendered."""
    texts: Folders = ()
    """Folders or files of your own texts, besides the toy world's."""
    devices: Devices = None
    """Devices of the ring; without an accelerator they are simulated."""
    preset: Literal["quickstart", "smoke", "needles"] = "quickstart"
    """The whole; one too small to learn, to see whether every part works; or needles found in texts."""

    def run(self, config: QuickstartConfig) -> None:
        """Run what is not done yet, and print the path of the report as the last line."""
        from ringworld.quickstart.job import quickstart

        print(quickstart(config, out=self.out, videos=self.videos, texts=self.texts, devices=self.devices))
