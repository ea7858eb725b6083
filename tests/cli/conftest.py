"""A model folder that commands open."""

from pathlib import Path

import pytest

from ringworld.artifacts.model_folder import save_model
from ringworld.artifacts.tokenizers import Tokenizers
from ringworld.core.origin import Origin
from ringworld.vision.frame_tokenizer import FrameTokenizer
from tests.inference.tiny_world import ARCHITECTURE, TOKENIZER, make_world


def saved(folder: Path, frame_tokenizer: FrameTokenizer | None) -> Path:
    made = make_world(ring=1)
    save_model(
        folder,
        made.model,
        architecture=ARCHITECTURE,
        tokenizers=Tokenizers(text_tokenizer=TOKENIZER, frame_tokenizer=frame_tokenizer),
        context_tokens=20_000,
        generation={},
        origin=Origin(kind="model"),
        mesh=made.mesh,
    )
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("models") / "tiny", None)


@pytest.fixture(scope="session")
def seeing(tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("models") / "seeing", make_world(ring=1).frame_tokenizer)
