"""Which run a folder belongs to, so that another one does not go on with its weights."""

from pathlib import Path
from typing import Any

from ringworld.core.config import to_json
from ringworld.core.files import claim_folder
from ringworld.model.config import ModelConfig
from ringworld.training.config import TrainingConfig

RUN_IDENTITY_FILE = "training.json"
_FREE_OF_TRAINING = {"checkpoint_every_steps", "log_every_steps"}
_FREE_OF_MODEL = {"rope_base", "attention", "remat", "mlp_block_tokens"}
"""What may change between two calls: how often something is written, and how the same thing is computed. The
rope base is free because the stages have their own."""


def claim_run(out: Path, config: TrainingConfig, model_config: ModelConfig, *, data: str) -> None:
    """Write into `out` what is trained there and on which data, or compare with what stands there.

    Args:
        out: folder of the run.
        config: stages and optimizer.
        model_config: shape of the model.
        data: fingerprint of the examples.

    Raises:
        InputError: another run began in this folder.
    """
    stages = {stage.name: to_json(stage) for stage in config.stages}
    identity = _without(_FREE_OF_TRAINING, to_json(config)) | {
        "stages": stages,
        "model": _without(_FREE_OF_MODEL, to_json(model_config)),
        "data": data,
    }
    claim_folder(out / RUN_IDENTITY_FILE, identity, holds="a training of another configuration or data")


def _without(free: set[str], values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in free}
