import json
from pathlib import Path

import pytest

from ringworld.core.errors import InputError
from ringworld.training.identity import RUN_IDENTITY_FILE, claim_folder
from tests.training.tiny_run import MODEL, training


@pytest.mark.parametrize("content", ["[]", "null", '{"seed": NaN}', json.dumps({"seed": 0})[:-2]])
def test_a_damaged_identity_is_named(tmp_path: Path, content: str):
    claim_folder(tmp_path, training(), MODEL)
    (tmp_path / RUN_IDENTITY_FILE).write_text(content)
    with pytest.raises(InputError, match=RUN_IDENTITY_FILE):
        claim_folder(tmp_path, training(), MODEL)
