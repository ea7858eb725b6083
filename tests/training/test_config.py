import dataclasses
from math import inf, nan
from typing import Any

import pytest

from ringworld.attention.config import AttentionConfig
from ringworld.core.config import from_json, to_json
from ringworld.core.errors import InputError
from ringworld.core.mesh_config import MeshConfig
from ringworld.training.config import OptimizerConfig, TrainingConfig, validate
from tests.training.tiny_run import MODEL, stage, training

ONE_DEVICE = MeshConfig()


def refused(
    *, match: str, stages: tuple[Any, ...] = (stage(),), mesh: MeshConfig = ONE_DEVICE, **model: Any
) -> None:
    with pytest.raises(InputError, match=match):
        validate(training(stages=stages), dataclasses.replace(MODEL, **model), mesh)


def test_a_run_that_fits_is_accepted():
    validate(training(), MODEL, MeshConfig(data=2, ring=2, tensor=2))


def test_contexts_do_not_fall():
    refused(
        stages=(stage("a", context_tokens=64), stage("b")), match="context_tokens of stage b.* 64 of stage a"
    )


def test_rope_bases_do_not_fall():
    refused(stages=(stage("a", rope_base=2e4), stage("b")), match="rope_base of stage b.* 20000.* of stage a")


def test_context_divides_over_the_ring_in_its_layout():
    refused(
        stages=(stage(context_tokens=36),),
        mesh=MeshConfig(ring=2, ulysses=4),
        match="36 tokens.*multiple of 16",
        attention=AttentionConfig(layout="zigzag"),
    )


def test_batch_divides_over_data_and_fsdp():
    refused(
        stages=(stage(batch_sequences=6),),
        mesh=MeshConfig(data=2, fsdp=2),
        match="batch_sequences.*multiple of 4",
    )


def test_batch_divides_into_pieces():
    uneven = stage(batch_sequences=4, accumulation_steps=3)
    refused(stages=(uneven,), match="batch_sequences.*multiple of 3")


def test_heads_divide_over_tensor():
    refused(mesh=MeshConfig(tensor=4), heads=6, kv_heads=2, match="heads")


def test_kv_heads_divide_over_tensor():
    refused(mesh=MeshConfig(tensor=4), match="kv_heads")


def test_mlp_divides_over_tensor():
    refused(mesh=MeshConfig(tensor=2), mlp=33, match="mlp")


def test_vocab_divides_over_tensor():
    refused(mesh=MeshConfig(tensor=2), text_vocab=25, match="vocab")


def test_embed_divides_over_the_weight_axes():
    refused(stages=(stage(batch_sequences=12, context_tokens=48),), mesh=MeshConfig(fsdp=3), match="embed")


@pytest.mark.parametrize(
    "field, value",
    [
        ("context_tokens", 0),
        ("steps", 0),
        ("batch_sequences", 0),
        ("accumulation_steps", 0),
        ("rope_base", 1.0),
        ("rope_base", inf),
        ("learning_rate", nan),
        ("learning_rate", 0.0),
        ("min_learning_rate", 1.0),
        ("warmup_steps", 40),
    ],
)
def test_a_stage_that_could_not_run_is_refused(field: str, value: Any):
    with pytest.raises(InputError, match=f"{field} of stage short"):
        stage(**{field: value})


@pytest.mark.parametrize(
    "field, value",
    [("beta1", 1.0), ("epsilon", 0.0), ("clip_norm", 0.0), ("weight_decay", -1.0), ("clip_norm", nan)],
)
def test_an_optimizer_that_is_not_defined_is_refused(field: str, value: float):
    with pytest.raises(InputError, match=field):
        OptimizerConfig(**{field: value})


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"stages": ()}, "at least one"),
        ({"stages": (stage("a"), stage("a"))}, "stage names"),
        ({"checkpoint_every_steps": 0}, "checkpoint_every_steps"),
        ({"vision_loss_weight": 0.0}, "vision_loss_weight"),
        ({"text_loss_weight": inf}, "text_loss_weight"),
        ({"seed": -1}, "seed"),
    ],
)
def test_a_run_that_makes_no_sense_is_refused(changes: dict[str, Any], match: str):
    with pytest.raises(InputError, match=match):
        training(**changes)


def test_boundaries_are_global_steps():
    stages = (stage("a", steps=10), stage("b", steps=20), stage("c", steps=5))
    assert training(stages=stages).boundaries == (0, 10, 30, 35)


def test_configuration_survives_json():
    assert from_json(TrainingConfig, to_json(training())) == training()
