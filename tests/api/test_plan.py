"""A plan for machines that are not there, from the library and the command line."""

import json
import sys

import pytest

import ringworld as rw
from ringworld.cli import main as command_line
from ringworld.core.errors import InputError
from ringworld.core.mesh_config import MeshConfig

ANSWERS = {
    "fits": bool,
    "bytes_per_chip": int,
    "hbm_bytes_per_chip": int,
    "compile_seconds": float,
    "flops_per_step": int,
    "step_seconds_estimate": float,
}


def test_the_command_prints_every_stage_and_the_one_that_needs_most(capsys, monkeypatch):
    command = ["ringworld", "plan", "one_gpu", "--gpus", "1xH100", "--json"]
    monkeypatch.setattr(sys, "argv", command)
    command_line.main()
    made = json.loads(capsys.readouterr().out)
    assert made["command"] == " ".join(command)
    assert [one["stage"] for one in made["stages"]] == ["4K", "16K", "64K"]
    for one in (made, *made["stages"]):
        assert {name: type(one[name]) for name in ANSWERS} == ANSWERS
    most = max(made["stages"], key=lambda one: one["bytes_per_chip"])
    assert (made["stage"], made["bytes_per_chip"]) == (most["stage"], most["bytes_per_chip"])
    assert made["fits"] and most["compiled"] is None
    assert sum(most["arithmetic"].values()) == most["bytes_per_chip"]


def test_fields_of_the_preset_are_options_and_a_table_shows_what_would_fit(capsys, monkeypatch):
    changed = ["--training.stages.2.mesh.fsdp", "4", "--training.stages.2.accumulation-steps", "1"]
    command = ["plan", "one_gpu", "--gpus", "8xH200", "--stages", "64K", "--suggest", *changed]
    monkeypatch.setattr(sys, "argv", ["ringworld", *command])
    command_line.main()
    table = capsys.readouterr().out
    assert "fsdp=4 ring=2" in table and table.count("strategy") > 1 and "16384" not in table


def test_a_plan_says_where_a_gpu_must_be_asked_for_more_than_jax_takes_of_it():
    run = rw.presets.lwm_text_7b_h100()
    needs = rw.plan(run, gpus="64xH100").tightest
    assert needs.fits == (needs.bytes_per_chip <= 0.9 * needs.hbm_bytes_per_chip)
    for gpus, more in (
        ("64xH100", needs.bytes_per_chip > 0.75 * needs.hbm_bytes_per_chip),
        ("64xH200", False),
    ):
        assert ("XLA_PYTHON_CLIENT_MEM_FRACTION" in rw.plan(run, gpus=gpus).table()) == more


def test_only_the_stages_that_are_planned_must_divide():
    run = rw.presets.lwm_text_7b()
    with pytest.raises(InputError) as refused:
        rw.plan(run, gpus="64xH200")
    assert (refused.value.field, refused.value.value) == ("mesh", 64) and "32K" in refused.value.remedy
    assert rw.plan(run, gpus="64xH200", stages=("1M",)).stages[0].mesh == MeshConfig(ring=4, tensor=16)


def test_each_stage_takes_all_devices_as_training_does():
    plan = rw.plan(rw.presets.one_gpu(), gpus="8xH200")
    assert {one.mesh.devices for one in plan.stages} == {8}
    assert plan.fits and plan.tightest.spare_bytes == min(one.spare_bytes for one in plan.stages)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({}, "topology"),
        ({"topology": "v5p:4x8x8", "gpus": "8xH200"}, "topology"),
        ({"topology": "v5p:4x8x9"}, "topology"),
        ({"gpus": "8xV100"}, "GPU"),
        ({"gpus": "8xH200", "by": "compiler"}, "by"),
        ({"gpus": "8xH200", "stages": ("2M",)}, "stage"),
        ({"gpus": "8xH200", "suggest": -1}, "suggest"),
        ({"gpus": "8xH200"}, "mesh"),
        ({"topology": "v5p:4x4x8", "by": "arithmetic"}, "mesh"),
    ],
)
def test_what_cannot_be_planned_is_an_input_error(asked, field):
    with pytest.raises(InputError) as refused:
        rw.plan(rw.presets.lwm_text_7b(), **asked)
    assert refused.value.field == field


def test_no_libtpu_names_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError) as refused:
        rw.plan(rw.presets.lwm_text_7b(), topology="v5p:4x8x8")
    assert (refused.value.field, refused.value.suggested) == ("topology", "ringworld[tpu]")
