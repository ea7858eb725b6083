import pytest

from ringworld.core.config import from_json, to_json
from ringworld.core.errors import InputError
from ringworld.vision.config import FrameTokenizerConfig, FrameTrainingConfig


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
        ({"batch_frames": 0}, "counts of one or more"),
        ({"continuous_steps": 100}, "before and one after the codebook is founded"),
        ({"adversarial_start_step": 5}, "start it later"),
    ],
)
def test_runs_that_cannot_be_run(wrong, said):
    right = {"steps": 100, "batch_frames": 4, "continuous_steps": 10, "adversarial_start_step": 50}
    FrameTrainingConfig(**right)
    with pytest.raises(InputError, match=said):
        FrameTrainingConfig(**(right | wrong))
