"""What several commands ask for."""

from dataclasses import dataclass
from pathlib import Path

from ringworld.core.config import read_run
from ringworld.presets import RunConfig, named


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigOptions:
    """Which configuration a command runs with."""

    preset: str = "quickstart"
    """Name of a configuration: quickstart, smoke or lwm_7b."""
    config: Path | None = None
    """A run.json that a command wrote, edited or not, or its folder; used instead of the preset."""

    def load(self) -> RunConfig:
        """Return the configuration.

        Raises:
            InputError: no such preset, or the file does not hold a configuration.
        """
        if self.config is None:
            return named(self.preset)
        return read_run(self.config, RunConfig)
