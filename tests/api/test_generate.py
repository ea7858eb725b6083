import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringworld.api.generate import generate
from ringworld.core.errors import InputError
from ringworld.data.config import PrepareConfig
from ringworld.data.find_sources import find_sources
from ringworld.vision.write_media import write_image


def call(model: Path, **changes: Any) -> str:
    options: dict[str, Any] = dict(
        kind="text",
        prompt="a",
        about=None,
        sampling={},
        weights=None,
        devices=None,
    )
    return generate(model, **(options | changes))


@pytest.mark.parametrize(
    ("field", "value"), [("temperature", -1.0), ("top_k", -1), ("seed", -1), ("guidance_scale", -1.0)]
)
def test_numbers_out_of_range_are_named_before_anything_is_read(tmp_path, field, value):
    with pytest.raises(InputError) as refused:
        call(tmp_path, out=tmp_path / "out", sampling={field: value})
    assert (refused.value.field, refused.value.value) == (field, value)
    assert not (tmp_path / "out").exists()


def test_a_file_that_cannot_be_asked_about_is_named(tmp_path):
    (tmp_path / "link.mp4").symlink_to("nothing")
    os.mkfifo(tmp_path / "pipe.mp4")
    for name in (".", "none.mp4", "link.mp4", "pipe.mp4"):
        with pytest.raises(InputError) as refused:
            call(tmp_path, out=tmp_path, kind="answer", about=tmp_path / name)
        assert (refused.value.field, refused.value.path) == ("about", tmp_path / name)


@pytest.mark.parametrize("origin", ['{"kind": "examples", "ringworld": "0.1"}', '{"name": "mine"}'])
def test_a_folder_of_something_else_is_left_alone(tmp_path, origin):
    (tmp_path / "origin.json").write_text(origin)
    with pytest.raises(InputError) as refused:
        call(tmp_path, out=tmp_path)
    assert refused.value.path in (tmp_path, tmp_path / "origin.json")
    assert (tmp_path / "origin.json").read_text() == origin


def test_a_folder_of_clips_is_left_to_its_owner_and_still_read(tmp_path):
    clip = tmp_path / "clips/a.png"
    write_image(clip, np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(InputError) as refused:
        call(tmp_path / "model", out=clip.parent)
    assert refused.value.path == clip.parent
    assert list(clip.parent.iterdir()) == [clip]
    assert [source.path for source in find_sources(videos=[tmp_path], config=PrepareConfig())] == [clip]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"about": Path("f")}, "about"),
        ({"frames": 3}, "frames"),
        ({"kind": "image", "samples": 2}, "samples"),
        ({"kind": "image", "frames": 3}, "frames"),
        ({"kind": "video", "max_new_tokens": 3}, "max_new_tokens"),
        ({"kind": "answer", "sampling": {"guidance_scale": 2.0}}, "guidance_scale"),
        ({"kind": "audio"}, "kind"),
    ],
)
def test_what_the_kind_would_not_heed_is_refused(tmp_path, options, field):
    with pytest.raises(InputError) as refused:
        call(tmp_path, out=tmp_path / "out", **options)
    assert refused.value.field == field


@pytest.mark.parametrize("kind", ["text", "answer", "image", "video"])
def test_what_is_left_out_fits_every_kind(tmp_path, kind):
    with pytest.raises(InputError) as refused:
        call(tmp_path, out=tmp_path / "out", kind=kind)
    assert refused.value.path is not None  # of the model, which is none
