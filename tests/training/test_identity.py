import dataclasses
import json
from pathlib import Path

import pytest

from ringworld.core.errors import InputError
from ringworld.model.config import ModelConfig
from ringworld.training.config import TrainingConfig
from ringworld.training.identity import RUN_IDENTITY_FILE, claim_run
from tests.training.tiny_run import MODEL, stage, training


def claim(
    out: Path, config: TrainingConfig | None = None, model: ModelConfig = MODEL, *, data: str = "a"
) -> None:
    claim_run(out, config or training(), model, data=data)


def test_the_same_run_may_be_computed_and_logged_in_another_way(tmp_path: Path):
    claim(tmp_path)
    claim(tmp_path, training(checkpoint_every_steps=9), dataclasses.replace(MODEL, remat="none"))


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"config": training(seed=1)}, "another seed"),
        ({"config": training(stages=(stage(), stage("long", context_tokens=64)))}, "another stages.long.b"),
        ({"config": training(stages=(stage(),))}, "another stages.long, expected"),
        ({"model": dataclasses.replace(MODEL, layers=3)}, "another model.layers"),
        ({"data": "b"}, "another data, expected a new folder"),
    ],
)
def test_another_run_is_refused_and_what_differs_is_named(tmp_path: Path, other: dict, named: str):
    claim(tmp_path)
    with pytest.raises(InputError, match=named):
        claim(tmp_path, **other)


@pytest.mark.parametrize("content", ["[]", "null", '{"seed": NaN}', json.dumps({"seed": 0})[:-2]])
def test_a_damaged_identity_is_named(tmp_path: Path, content: str):
    claim(tmp_path)
    (tmp_path / RUN_IDENTITY_FILE).write_text(content)
    with pytest.raises(InputError, match=f"{RUN_IDENTITY_FILE}: got a damaged file"):
        claim(tmp_path)
