from dataclasses import replace

import pytest

from ringworld.core.config import from_json, to_json
from ringworld.core.errors import InputError
from ringworld.presets import PRESETS, RunConfig, named, quickstart


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_comes_back_from_json(preset):
    assert from_json(RunConfig, to_json(preset())) == preset()


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(InputError, match="Did you mean quickstart"):
        named("quickstrat")


def test_the_ring_takes_the_devices_that_there_are():
    assert quickstart().on_devices(4).mesh.ring == 4
    with pytest.raises(InputError, match="--devices"):
        replace(named("lwm_7b")).on_devices(100)


def test_a_codebook_that_the_model_has_no_ids_for_is_refused():
    run = quickstart()
    with pytest.raises(InputError, match="vision_vocab"):
        replace(run, model=replace(run.model, vision_vocab=run.model.vision_vocab - 1))
