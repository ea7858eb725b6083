"""`ringworld quickstart`: the whole path, from files to a report."""

from dataclasses import dataclass, field
from pathlib import Path

from ringworld.cli.options import ConfigOptions, Devices, Folders
from ringworld.core.files import only_one


@dataclass(frozen=True, kw_only=True, slots=True)
class Quickstart:
    """Do everything once, small but real: tokenizers, preparation, training in stages, generation, report."""

    out: Path
    """Folder for everything; the same command on it goes on where it was stopped."""
    videos: Folders = ()
    """Folders or files of your own videos and images, besides the toy world that is rendered."""
    texts: Folders = ()
    """Folders or files of your own texts, besides the toy world's."""
    devices: Devices = None
    """Members of the ring; without an accelerator they are simulated."""
    configuration: ConfigOptions = field(default_factory=ConfigOptions)

    def run(self) -> None:
        """Run what is not done yet, and print the path of the report as the last line."""
        run = self.configuration.load()
        from ringworld.cli.jobs.quickstart import quickstart

        with only_one(self.out):
            report = quickstart(run, out=self.out, videos=self.videos, texts=self.texts, devices=self.devices)
        print(report)
