import dataclasses
from math import inf, nan
from typing import Any

import jaxtyping
import pytest

from ringworld.attention.config import AttentionConfig
from ringworld.core.config import from_json, to_json
from ringworld.core.errors import InputError
from ringworld.core.mesh_config import MeshConfig
from ringworld.model.config import Execution
from ringworld.training.config import OptimizerConfig, Stage, TrainingConfig, validate
from tests.training.tiny_run import EXECUTION, MODEL, stage, training


def refused(*stages: Stage, field: str, **model: Any) -> None:
    with pytest.raises(InputError) as refusal:
        validate(training(stages=stages), dataclasses.replace(MODEL, **model), Execution())
    assert refusal.value.field == field


def test_a_run_that_fits_is_accepted():
    meshes = (MeshConfig(data=2, ring=2, tensor=2), MeshConfig(ring=8))
    validate(training(stages=tuple(stage(str(mesh.ring), mesh=mesh) for mesh in meshes)), MODEL, EXECUTION)


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/b", "a\\b", "a\0", ".a", "a.", "a" * 65, "a b"])
def test_the_name_of_a_stage_is_that_of_a_folder(name):
    with pytest.raises(InputError) as refusal:
        stage(name)
    assert (refusal.value.field, refusal.value.value) == ("name", name)


def test_contexts_do_not_fall():
    refused(stage("a", context_tokens=64), stage("b"), field="stage b.context_tokens")


def test_rope_bases_do_not_fall():
    refused(stage("a", rope_base=2e4), stage("b"), field="stage b.rope_base")


def test_context_divides_over_the_ring_of_its_own_stage_in_its_layout():
    mesh = MeshConfig(ring=2, ulysses=4)
    fits, cut = stage("a", context_tokens=36), stage("b", context_tokens=36, mesh=mesh)
    execution = Execution(attention=AttentionConfig(layout="zigzag"))
    validate(training(stages=(fits,)), MODEL, execution)
    with pytest.raises(InputError):
        validate(training(stages=(fits, cut)), MODEL, execution)


def test_batch_divides_over_data_and_fsdp():
    mesh = MeshConfig(data=2, fsdp=2)
    refused(stage(batch_sequences=6, mesh=mesh), field="stage short.batch_sequences")


def test_batch_divides_into_pieces():
    refused(stage(batch_sequences=4, accumulation_steps=3), field="stage short.batch_sequences")


def test_heads_divide_over_tensor():
    refused(stage(mesh=MeshConfig(tensor=4)), heads=2, kv_heads=2, field="model.heads")


def test_kv_heads_divide_over_tensor():
    refused(stage(mesh=MeshConfig(tensor=4)), field="model.kv_heads")


def test_mlp_divides_over_tensor():
    refused(stage(mesh=MeshConfig(tensor=2)), mlp=33, field="model.mlp")


def test_vocab_divides_over_tensor():
    refused(stage(mesh=MeshConfig(tensor=2)), text_vocab=25, field="model.vocab")


def test_embed_divides_over_the_weight_axes():
    refused(stage(batch_sequences=12, context_tokens=48, mesh=MeshConfig(fsdp=3)), field="model.embed")


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
    with pytest.raises(InputError) as refusal:
        stage(**{field: value})
    assert refusal.value.field == f"stage short.{field}"


@pytest.mark.parametrize(
    "field, value",
    [("beta1", 1.0), ("epsilon", 0.0), ("clip_norm", 0.0), ("weight_decay", -1.0), ("clip_norm", nan)],
)
def test_an_optimizer_that_is_not_defined_is_refused(field: str, value: float):
    with pytest.raises(InputError) as refusal:
        OptimizerConfig(**dict[str, Any]({field: value}))
    assert refusal.value.field == field


def test_moments_of_bfloat16_that_would_stand_still_are_refused():
    OptimizerConfig(moment_dtype="bfloat16", beta2=0.99)
    with pytest.raises(InputError) as refusal:
        OptimizerConfig(moment_dtype="bfloat16", beta2=0.999)
    assert refusal.value.field == "beta2"


def test_a_name_that_is_none_of_those_that_there_are_is_refused(monkeypatch):
    """Also where types are not checked, as with users."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for make, field in (
        (lambda: stage(moments="zero"), "stage short.moments"),
        (lambda: OptimizerConfig(moment_dtype="int8"), "moment_dtype"),  # pyright: ignore
        (lambda: Execution(remat="some"), "execution.remat"),  # pyright: ignore
    ):
        with pytest.raises(InputError) as refusal:
            make()
        assert refusal.value.field == field


@pytest.mark.parametrize(
    "field, value",
    [
        ("stages", ()),
        ("stages", (stage("a"), stage("a"))),
        ("checkpoint_every_steps", 0),
        ("vision_loss_weight", 0.0),
        ("text_loss_weight", inf),
        ("seed", -1),
        ("seed", 2**31),
        ("seed", 10**400),
    ],
)
def test_a_run_that_makes_no_sense_is_refused(field: str, value: Any):
    with pytest.raises(InputError) as refusal:
        training(**{field: value})
    assert refusal.value.field == field


def test_boundaries_are_global_steps():
    stages = (stage("a", steps=10), stage("b", steps=20), stage("c", steps=5))
    assert training(stages=stages).boundaries == (0, 10, 30, 35)


def test_configuration_survives_json():
    assert from_json(TrainingConfig, to_json(training())) == training()
