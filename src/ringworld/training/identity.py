"""Which run a folder belongs to, so that another one does not go on with its weights."""

import dataclasses
from pathlib import Path
from typing import Any

from ringworld.core.config import read_as, to_json
from ringworld.core.errors import InputError
from ringworld.core.files import write_json_atomic
from ringworld.model.config import ModelConfig
from ringworld.training.config import TrainingConfig

RUN_IDENTITY_FILE = "training.json"
_FREE_OF_TRAINING = {"checkpoint_every_steps", "log_every_steps"}
_FREE_OF_MODEL = {"rope_base", "attention", "remat", "mlp_block_tokens"}
"""What may change between two calls: how often something is written, and how the same thing is computed. The
rope base is free because the stages have their own."""


def claim_folder(out: Path, config: TrainingConfig, model_config: ModelConfig) -> None:
    """Write into `out` what is trained there, or compare with what stands there.

    Raises:
        InputError: another run began in this folder.
    """
    path = out / RUN_IDENTITY_FILE
    ours = _values("", config, free=_FREE_OF_TRAINING) | _values("model.", model_config, free=_FREE_OF_MODEL)
    if not path.exists():
        write_json_atomic(path, ours)
        return
    theirs = read_as(dict[str, Any], path)
    if changed := sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)):
        raise InputError(
            what=f"run in {out}",
            got=f"another {', '.join(changed)}",
            expected="the configuration with which it began",
            remedy="Train in a new folder, or use the old configuration to go on.",
        )


def _values(prefix: str, config: Any, *, free: set[str]) -> dict[str, Any]:
    """Return the fields that matter, stages one by one: `stages.4k` is a name of its own."""
    values = {
        prefix + field.name: to_json(getattr(config, field.name))
        for field in dataclasses.fields(config)
        if field.name not in free
    }
    stages = values.pop("stages", [])
    return values | {f"stages.{stage['name']}": stage for stage in stages}
