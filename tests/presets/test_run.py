import inspect
import sys
from dataclasses import replace
from typing import Any

import pytest

import ringworld as rw
from ringworld.core.config import from_json, to_json
from ringworld.core.errors import InputError
from ringworld.presets import RunConfig, lwm_text_7b, quickstart
from ringworld.presets.lwm_text import MODELS, text_run
from ringworld.presets.on_machine import on_machine
from ringworld.presets.run import catalog, load_preset, presets


@pytest.mark.parametrize("preset", presets().values(), ids=presets())
def test_a_preset_comes_back_from_json_and_says_what_it_needs(preset):
    assert from_json(RunConfig, to_json(preset())) == preset()
    told = ("Hardware: ", "Cost: ", "Source: ") if preset.__name__.startswith("lwm") else ("Hardware: ",)
    assert all(one in preset.__doc__ for one in told)


def test_the_catalog_names_every_preset_with_its_hardware():
    listed = catalog()
    for name, preset in presets().items():  # to the end of the sentence, which may take several lines
        hardware = inspect.cleandoc(preset.__doc__ or "").split("Hardware: ")[1].split("\n\n")[0]
        assert " ".join(hardware.split()) in " ".join(listed.split()), name
    assert all(f"{name}: " in listed for name in presets())
    assert listed.count("Hardware: ") == len(presets())


def test_a_preset_of_ones_own_is_found_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "neighbor_of_my_runs.py").write_text(
        "from dataclasses import replace\n"
        "from ringworld.presets import smoke\n"
        "def theirs():\n"
        "    return replace(smoke(), frame_training_frames=8)\n"
    )
    (tmp_path / "my_module_of_runs.py").write_text(
        "from dataclasses import replace\n"
        "from functools import partial\n"
        "from ringworld.presets import smoke\n"
        "from neighbor_of_my_runs import theirs\n"
        "late = partial(replace, smoke(), frame_training_frames=9)\n"
        "def inside():\n"
        "    import neighbor_of_my_runs\n"
        "    return neighbor_of_my_runs.theirs()\n"
        "def mine():\n"
        "    return replace(smoke(), frame_training_frames=7)\n"
        "def number():\n"
        "    return 3\n"
        "def sized(layers):\n"
        "    return smoke()\n"
    )
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    for name, frames in (("mine", 7), ("theirs", 8), ("late", 9), ("inside", 8)):
        assert load_preset(f"my_module_of_runs:{name}").frame_training_frames == frames
    assert sys.path == before
    for name in ("my_module_of_runs:number", "my_module_of_runs:sized", "my_module_of_runs:replace"):
        with pytest.raises(InputError) as refused:
            load_preset(name)
        assert refused.value.field == "preset"


def test_a_field_that_there_is_not_is_an_input_error_and_other_errors_of_a_preset_are_its_own(
    tmp_path, monkeypatch
):
    (tmp_path / "misspelled_module_of_runs.py").write_text(
        "from dataclasses import dataclass, replace\n"
        "from ringworld.presets import smoke\n"
        "from ringworld.data.config import PrepareConfig\n"
        "@dataclass\n"
        "class Mine:\n"
        "    size: int\n"
        "def of_data():\n"
        "    return PrepareConfig(documents_tokens=9)\n"
        "def of_run():\n"
        "    return replace(smoke(), modle=smoke().model)\n"
        "def mine():\n"
        "    return Mine(sise=3)\n"
    )
    monkeypatch.chdir(tmp_path)
    for name, field in (("of_data", "PrepareConfig.documents_tokens"), ("of_run", "RunConfig.modle")):
        with pytest.raises(InputError) as refused:
            load_preset(f"misspelled_module_of_runs:{name}")
        assert (refused.value.field, refused.value.value) == (field, field.split(".")[1])
    assert refused.value.suggested == "model"
    with pytest.raises(TypeError, match="Mine"):
        load_preset("misspelled_module_of_runs:mine")


@pytest.mark.parametrize(
    "name", ["quickstrat", "no_such_module:run", "ringworld.presets:nothing", "", ":f", ".x:f", "os:f x"]
)
def test_an_unknown_preset_is_an_input_error(name):
    with pytest.raises(InputError) as refused:
        load_preset(name)
    assert refused.value.field == "preset"


def test_a_module_that_fails_to_import_shows_its_own_error(tmp_path, monkeypatch):
    (tmp_path / "broken_module_of_runs.py").write_text("import not_installed_anywhere\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModuleNotFoundError) as failed:
        load_preset("broken_module_of_runs:run")
    assert failed.value.name == "not_installed_anywhere"


def test_the_ring_of_every_stage_takes_the_devices_that_there_are():
    assert {stage.mesh.ring for stage in quickstart().on_devices(4).training.stages} == {4}
    for run, devices in ((quickstart(), 0), (load_preset("lwm_7b"), 100)):
        with pytest.raises(InputError) as refused:
            run.on_devices(devices)
        assert (refused.value.field, refused.value.value) == ("devices", devices)


@pytest.mark.parametrize("name", ["lwm_text_7b", "lwm_7b", "lwm_chat_7b", "one_gpu"])
@pytest.mark.parametrize("machine", ["8xH200", "64xH100", "v6e:16x16", "v5p:8x8x8"])
def test_on_another_machine_a_run_takes_all_chips_and_cuts_short_sequences_least(name, machine):
    run = load_preset(name)
    there = on_machine(run, machine)
    on: dict[str, Any] = {"topology" if ":" in machine else "gpus": machine}
    plan = rw.plan(there, by="arithmetic", **on)
    assert plan.fits and [one.mesh for one in plan.stages] == [one.mesh for one in there.training.stages]
    for stage, before in zip(there.training.stages, run.training.stages):
        at_once = stage.batch_sequences // stage.accumulation_steps
        assert stage.mesh.fsdp == min(at_once, stage.mesh.devices // stage.mesh.tensor)
        # All that a stage learns stays.
        assert replace(stage, mesh=before.mesh, accumulation_steps=before.accumulation_steps) == before


MACHINES = ("v4:4x8x8", "v5p:4x8x8", "v6e:16x16", "8xH100", "8xH200", "64xH100", "64xH200")
TOO_SMALL = {("13b", "8xH100"), *((size, f"8x{gpu}") for size in ("30b", "65b") for gpu in ("H100", "H200"))}
"""Their weights, moments and gradients alone, or with a layer at work, are more than there is."""


@pytest.mark.parametrize("machine", MACHINES)
def test_every_size_has_stages_that_a_plan_for_the_machine_accepts(machine):
    on: dict[str, Any] = {"topology" if ":" in machine else "gpus": machine}
    for size in MODELS:
        if (size, machine) in TOO_SMALL:
            with pytest.raises(InputError) as refused:
                text_run(size, machine)
            assert (refused.value.field, refused.value.value) == ("machine", machine)
        else:
            plan = rw.plan(text_run(size, machine), by="arithmetic", **on)
            assert plan.fits, size
            assert {one.mesh.devices for one in plan.stages} == {plan.machine.chips}


def test_what_is_kept_between_layers_is_offloaded_only_where_it_would_not_fit():
    assert text_run("7b", "8xH200").execution.remat == "layer"
    plan = rw.plan(text_run("7b", "8xH100"), gpus="8xH100")
    assert plan.fits and all(one.host_bytes_per_chip > 0 for one in plan.stages)


# Tables 11 and 13 of the paper: context, RoPE base, steps, warm-up, tokens an update, learning rates.
PAPER = {
    "lwm_text_7b": [
        (2**15, 1e6, 1_200, 100, 2**22, 4e-5, 4e-5),
        (2**17, 1e7, 3_000, 200, 2**22, 4e-5, 4e-5),
        (2**18, 1e7, 3_000, 200, 2**22, 4e-5, 4e-5),
        (2**19, 25e6, 720, 50, 2**22, 4e-5, 4e-5),
        (2**20, 5e7, 450, 25, 2**22, 4e-5, 4e-5),
    ],
    "lwm_7b": [
        (2**10, 5e7, 45_000, 1_000, 2**23, 6e-4, 6e-5),
        (2**13, 5e7, 14_000, 500, 2**23, 6e-4, 6e-5),
    ],
    "lwm_chat_7b": [
        (2**15, 5e7, 1_200, 100, 2**23, 8e-5, 8e-5),
        (2**17, 5e7, 450, 50, 2**23, 8e-5, 8e-5),
        (2**20, 5e7, 50, 5, 2**23, 8e-5, 8e-5),
    ],
}
PAPER["lwm_vision_7b"] = PAPER["lwm_7b"] + PAPER["lwm_chat_7b"]


@pytest.mark.parametrize("name", PAPER)
def test_the_stages_of_the_paper_have_its_figures(name):
    assert [
        (
            stage.context_tokens,
            stage.rope_base,
            stage.steps,
            stage.warmup_steps,
            stage.context_tokens * stage.batch_sequences,
            stage.learning_rate,
            stage.min_learning_rate,
        )
        for stage in load_preset(name).training.stages
    ] == PAPER[name]
    # Each begins from weights alone.
    assert {stage.moments for stage in load_preset(name).training.stages} == {"reset"}


def test_the_tasks_of_the_paper_have_its_shares():
    for stage in load_preset("lwm_7b").training.stages:
        assert stage.mixture.ratios["text"] == 0.16
        assert sum(stage.mixture.ratios.values()) == pytest.approx(1)
    for stage in load_preset("lwm_chat_7b").training.stages:
        assert set(stage.mixture.ratios.values()) == {0.25} and len(stage.mixture.ratios) == 4
    chat = load_preset("lwm_text_chat_7b").training
    assert [stage.mixture.ratios for stage in chat.stages] == [{"chat": 0.7, "long_qa/chat": 0.3}]
    assert chat.packing.together == "name"
    for name in ("lwm_7b", "lwm_chat_7b", "lwm_text_chat_7b"):
        assert {stage.mixture.by for stage in load_preset(name).training.stages} == {"tokens"}


def test_a_machine_that_is_too_small_or_a_size_that_is_none_is_named():
    for size, machine, field in (
        ("65b", "8xH100", "machine"),
        ("7b", "48xH100", "machine"),
        ("7", "8xH100", "size"),
        ("7b", "8xH1", "GPU"),
    ):
        with pytest.raises(InputError) as refused:
            text_run(size, machine)
        assert refused.value.field == field


def test_a_codebook_that_the_model_has_no_ids_for_is_refused():
    run = quickstart()
    with pytest.raises(InputError) as refused:
        replace(run, model=replace(run.model, vision_vocab=run.model.vision_vocab - 1))
    assert refused.value.field == "model.vision_vocab"


def test_a_run_of_text_alone_has_a_vocabulary_of_text_alone():
    run = lwm_text_7b()
    assert (run.vocabulary.vision_size, run.model.vocab) == (0, 32_000)
    with pytest.raises(InputError) as refused:
        replace(run, frame_training=quickstart().frame_training)
    assert refused.value.field == "frame_training"
