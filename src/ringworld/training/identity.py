"""Which run a folder belongs to, so that another run does not resume with its weights."""

from typing import Any

from ringworld.core.config import to_json
from ringworld.model.config import Architecture, Execution
from ringworld.training.config import TrainingConfig

_FREE_OF_TRAINING = {"checkpoint_every_steps", "log_every_steps", "tracker"}
_FREE_OF_STAGE = {"mesh", "accumulation_steps"}
"""What may change between two calls: what is written how often, and where and in how many pieces it is
computed. How it is computed may change too, but for the compute type."""


def identity(
    config: TrainingConfig, architecture: Architecture, execution: Execution, *, data: str
) -> dict[str, Any]:
    """Return JSON that is equal for calls that may resume each other's run, and only for those.

    Args:
        config: stages and optimizer.
        architecture: of the model; stages have rope bases of their own.
        execution: its compute type.
        data: fingerprint of the examples.
    """
    stages = {stage.name: _without(_FREE_OF_STAGE, to_json(stage)) for stage in config.stages}
    return _without(_FREE_OF_TRAINING, to_json(config)) | {
        "stages": stages,
        "model": _without({"rope"}, to_json(architecture)) | {"compute": execution.compute},
        "rope_scaling": to_json(architecture.rope.scaling),
        "data": data,
    }


def _without(free: set[str], values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in free}
