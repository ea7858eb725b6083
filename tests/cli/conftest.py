"""A model folder that commands open."""

from pathlib import Path

import pytest

from ringworld.artifacts.model_folder import save_model
from ringworld.artifacts.tokenizers import Tokenizers
from ringworld.core.origin import Origin
from tests.inference.tiny_world import ARCHITECTURE, TOKENIZER, make_world


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    made = make_world(ring=1)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(
        folder,
        made.model,
        architecture=ARCHITECTURE,
        tokenizers=Tokenizers(text=TOKENIZER, frames=None),
        context_tokens=20_000,
        generation={},
        origin=Origin(kind="model"),
        mesh=made.mesh,
    )
    return folder
