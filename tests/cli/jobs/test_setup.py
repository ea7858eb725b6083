import dataclasses

import pytest

from ringworld.cli.jobs.setup import FRAMES_FOLDER, TEXT_FOLDER, load_tokenizers
from ringworld.core.errors import InputError
from ringworld.presets import smoke
from tests.inference.tiny_world import CONFIG, FRAMES, TOKENIZER, make_world


def test_tokenizers_of_another_configuration_are_refused_with_a_remedy_of_every_command(tmp_path):
    TOKENIZER.save(tmp_path / TEXT_FOLDER)
    make_world(ring=1).frames.save(tmp_path / FRAMES_FOLDER)
    run = dataclasses.replace(smoke(), model=CONFIG, frames=FRAMES)
    text, frames = load_tokenizers(run, tmp_path)
    assert (text.size, frames.config) == (TOKENIZER.size, FRAMES)
    other = dataclasses.replace(run, frames=dataclasses.replace(FRAMES, res_blocks=2))
    with pytest.raises(InputError, match="the frame tokenizer of the configuration") as refused:
        load_tokenizers(other, tmp_path)
    assert str(tmp_path / "run.json") in refused.value.remedy
    assert "--config" not in str(refused.value)
