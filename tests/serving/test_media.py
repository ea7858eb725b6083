"""Files that are shown again."""

import io
import subprocess

import numpy as np
import pytest
from PIL import Image

from ringworld.serving.config import ServingLimits
from ringworld.serving.deadline import Deadline
from ringworld.serving.media import Media
from tests.serving.test_server import WORLD


def picture(value: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def decoded(monkeypatch) -> list[object]:
    """What was decoded so far."""
    found: list[object] = []
    run = subprocess.run

    def counted(*args, **options):
        found.append(args)
        return run(*args, **options)

    monkeypatch.setattr(subprocess, "run", counted)
    return found


def test_a_file_is_decoded_once_while_its_codes_are_remembered(decoded):
    frame_bytes = WORLD.codes(video=np.zeros((1, 4, 4, 3), np.uint8)).nbytes
    media = Media(WORLD, limits=ServingLimits(), most_known_bytes=2 * frame_bytes)

    def codes(value: int) -> np.ndarray:
        return media.codes(picture(value), kind="image", field="messages", deadline=Deadline(60))

    black = codes(0)
    np.testing.assert_array_equal(codes(0), black)
    assert len(decoded) == 1
    codes(100)
    codes(0)  # used later than the other one, which makes room for the next
    codes(200)
    assert len(decoded) == 3
    np.testing.assert_array_equal(codes(0), black)
    assert len(decoded) == 3
    codes(100)
    assert len(decoded) == 4


def test_what_was_read_as_a_picture_is_looked_at_again_where_a_film_is_shown(decoded):
    media = Media(WORLD, limits=ServingLimits())
    media.codes(picture(0), kind="image", field="messages", deadline=Deadline(60))
    media.codes(picture(0), kind="any", field="messages", deadline=Deadline(60))
    assert len(decoded) == 2
