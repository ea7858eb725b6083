import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from ringworld.core import origin
from ringworld.core.errors import InputError
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.origin import ORIGIN_FILE, Origin
from ringworld.model.config import Linear, Rope
from ringworld.model.lora_config import LoraConfig
from ringworld.training.identity import identity
from tests.training.tiny_run import EXECUTION, MODEL, stage, training

RUN: dict[str, Any] = dict(config=training(), architecture=MODEL, execution=EXECUTION, data="a")


def claim(out: Path, **changes: Any) -> None:
    origin.claim(out, Origin(kind="run", identity=identity(**RUN | changes)))


def test_the_same_run_may_be_computed_and_logged_in_another_way(tmp_path: Path):
    claim(tmp_path)
    elsewhere = training(MeshConfig(ring=2)).stages
    in_pieces = tuple(dataclasses.replace(one, accumulation_steps=2) for one in elsewhere)
    claim(
        tmp_path,
        config=training(stages=in_pieces, checkpoint_every_steps=9, log_every_steps=3, tracker="wandb"),
        execution=dataclasses.replace(EXECUTION, remat="none"),
    )


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"config": training(seed=1)}, "seed"),
        (
            {"config": training(stages=(stage(), stage("long", context_tokens=64, rope_base=1e5)))},
            "stages.long.batch_sequences",
        ),
        ({"config": training(stages=(stage(),))}, "stages.long"),
        ({"config": training(lora=LoraConfig(rank=2))}, "lora.rank"),
        ({"architecture": dataclasses.replace(MODEL, layers=3)}, "model.layers"),
        ({"architecture": dataclasses.replace(MODEL, rope=Rope(scaling=Linear(factor=2.0)))}, "rope_scaling"),
        ({"execution": dataclasses.replace(EXECUTION, compute="bfloat16")}, "model.compute"),
        ({"data": "b"}, "data"),
    ],
)
def test_another_run_is_refused_and_what_differs_is_named(tmp_path: Path, other: dict, named: str):
    claim(tmp_path)
    with pytest.raises(InputError) as refusal:
        claim(tmp_path, **other)
    assert refusal.value.value == [named]


@pytest.mark.parametrize("content", ["[]", "null", '{"seed": NaN}', json.dumps({"seed": 0})[:-2]])
def test_a_damaged_identity_is_named(tmp_path: Path, content: str):
    claim(tmp_path)
    (tmp_path / ORIGIN_FILE).write_text(content)
    with pytest.raises(InputError) as refusal:
        claim(tmp_path)
    assert refusal.value.path == tmp_path / ORIGIN_FILE
