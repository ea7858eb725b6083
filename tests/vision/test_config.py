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
    ("wrong", "said"),
    [
        ({"resolution": 100}, "a multiple of 16"),
        ({"hidden": 48}, "groups that divide"),
        ({"channel_multipliers": ()}, "sizes of one or more"),
        ({"latent": 0}, "sizes of one or more"),
    ],
)
def test_shapes_that_cannot_be_built(wrong, said):
    with pytest.raises(InputError, match=said):
        FrameTokenizerConfig(**wrong)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"batch_frames": 0}, "batch_frames: got 0, expected at least 1"),
        ({"l2_weight": nan}, "l2_weight: got nan"),
        ({"edge_weight": -0.1}, "edge_weight: got -0.1, expected at least 0"),
        ({"learning_rate": inf}, "learning_rate: got inf, expected more than 0"),
        ({"codebook_decay": 1.0}, "codebook_decay: got 1.0, expected at least 0 and below 1"),
        ({"seed": -1}, "seed: got -1"),
        ({"discriminator_hidden": 6}, "discriminator_hidden: got 6, expected a multiple of 4"),
        ({"discriminator_hidden": 0}, "discriminator_hidden: got 0, expected at least 1"),
        ({"revive_below": 0.0}, "revive_below: got 0.0, expected more than 0"),
        ({"continuous_steps": 100}, "before and one after the codebook is founded"),
        ({"adversarial_start_step": 5}, "start it later"),
    ],
)
def test_runs_that_cannot_be_run(wrong, said):
    right = {"steps": 100, "batch_frames": 4, "continuous_steps": 10, "adversarial_start_step": 50}
    FrameTrainingConfig(**right)
    with pytest.raises(InputError, match=said):
        FrameTrainingConfig(**(right | wrong))


@pytest.mark.parametrize("wrong", [{"aspect_ratio": nan}, {"duration_seconds": inf}, {"frame_pixels": 0}])
def test_limits_that_limit_nothing_or_everything(wrong):
    with pytest.raises(InputError, match=f"media limit {next(iter(wrong))}"):
        MediaLimits(**wrong)
