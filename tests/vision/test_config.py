from math import inf, nan

import pytest

from ringworld.core.config import from_json, to_json
from ringworld.core.errors import InputError
from ringworld.vision.config import FrameTokenizerConfig, FrameTrainingConfig, MediaLimits


def test_lwm_has_sixteen_by_sixteen_codes_a_frame():
    config = FrameTokenizerConfig()
    assert (config.codes_side, config.codes_per_frame) == (16, 256)
    assert config.channels == (128, 256, 256, 512, 768)
    assert from_json(FrameTokenizerConfig, to_json(config)) == config


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"resolution": 100}, "resolution"),
        ({"resolution": 0}, "resolution"),
        ({"channels": (48, 96)}, "groups"),
        ({"channels": ()}, "channels"),
        ({"channels": (128, 0)}, "channels"),
        ({"channels": (128, 10**400)}, "channels"),
        ({"latent": 0}, "latent"),
        ({"codebook_size": 2**63}, "codebook_size"),
        ({"codebook_size": 2**29}, "codebook_size"),
        ({"channels": (128, 2**20)}, "channels"),
        ({"latent": 2**20}, "latent"),
        ({"res_blocks": 10**12}, "res_blocks"),
        ({"resolution": 2**40}, "resolution"),
    ],
)
def test_shapes_that_cannot_be_built(wrong, field):
    with pytest.raises(InputError) as refused:
        FrameTokenizerConfig(**wrong)
    assert refused.value.field == f"frame_tokenizer.{field}"


RIGHT = {"steps": 100, "batch_frames": 4, "continuous_steps": 10, "adversarial_start_step": 50}


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_frames": 0},
        {"l2_weight": nan},
        {"edge_weight": -0.1},
        {"learning_rate": inf},
        {"codebook_decay": 1.0},
        {"seed": -1},
        {"seed": 2**63},
        {"steps": 10**400},
        {"discriminator_hidden": 6},
        {"discriminator_hidden": 0},
        {"revive_below": 0.0},
        {"continuous_steps": 100},
        {"continuous_steps": 0},
        {"adversarial_start_step": 5},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_runs_that_cannot_be_run(wrong):
    with pytest.raises(InputError) as refused:
        FrameTrainingConfig(**(RIGHT | wrong))
    assert refused.value.field == f"frame_training.{next(iter(wrong))}"


@pytest.mark.parametrize("wrong", [{"aspect_ratio": nan}, {"duration_seconds": inf}, {"frame_pixels": 0}])
def test_limits_that_limit_nothing_or_everything(wrong):
    with pytest.raises(InputError) as refused:
        MediaLimits(**wrong)
    assert refused.value.field == f"limits.{next(iter(wrong))}"
