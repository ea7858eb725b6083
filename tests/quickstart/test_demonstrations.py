"""What the report shows of a model: real videos at full length, and questions about every file."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ringworld.data.config import PrepareConfig
from ringworld.data.find_sources import find_sources
from ringworld.presets import smoke
from ringworld.quickstart.demonstrations import Demonstrations, demonstrate
from ringworld.vision.media import stream_video
from ringworld.vision.write_media import write_image, write_video
from tests.inference.tiny_world import FRAME_TOKENIZER, make_world

MOST_FRAMES = 4
RUN = dataclasses.replace(
    smoke(),
    frame_tokenizer=FRAME_TOKENIZER,
    prepare=PrepareConfig(frames_per_second=4.0, max_frames=MOST_FRAMES),
)
ASKED = [{"question": f"Question {index}?", "answer": "a"} for index in range(3)]
SIDE = 32


def picture(*, frames: int) -> np.ndarray:
    return np.full((frames, SIDE, SIDE, 3), 90, np.uint8)


def said(path: Path, caption: str) -> None:
    path.with_suffix(".json").write_text(json.dumps({"caption": caption, "questions": ASKED}))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A clip to train on; held out, an image, a video of one frame and one of four."""
    root = tmp_path_factory.mktemp("shown")
    for name, frames, caption in (
        ("trained.mp4", 4, "A red circle."),
        ("held_out/a.png", 1, "The image."),
        ("held_out/b.mp4", 1, "A red circle."),
        ("held_out/c.mp4", 4, "A circle."),
    ):
        path = root / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            write_image(path, picture(frames=1)[0])
        else:
            # A copy of what is held out would be held out, too.
            shade = 40 if name == "trained.mp4" else 0
            write_video(path, picture(frames=frames) + np.uint8(shade), frames_per_second=4.0)
        said(path, caption)
    return root


@pytest.fixture(scope="module")
def shown(root) -> Demonstrations:
    world = make_world(ring=1).world
    sources = find_sources(videos=[root / "in"], texts=[], config=RUN.prepare)
    return demonstrate(world, RUN, sources=sources, folder=root / "samples")


def test_an_image_or_a_short_clip_makes_no_video_shorter(shown, root):
    assert [one.caption for one in shown.videos] == ["A red circle.", "A circle."]
    for one, real in zip(shown.videos, (1, MOST_FRAMES)):
        for name, expected in ((one.generated, MOST_FRAMES), (one.real, real)):
            assert name is not None
            frames = stream_video(root / name, frames_per_second=4.0, resolution=SIDE)
            assert sum(1 for _ in frames) == expected
    strip = np.asarray(Image.open(root / "samples/videos.png"))
    one_frame = strip[strip.shape[0] // 4 + 10]  # the second row of four: the clip of one frame
    assert (one_frame[: strip.shape[1] // MOST_FRAMES - 2, 3] == 255).all()
    assert not one_frame[strip.shape[1] // MOST_FRAMES :, 3].any()


def test_an_image_is_shown_as_an_image(shown):
    assert "The image." in {one.caption for one in shown.images}


def test_captions_that_were_trained_on_are_marked(shown):
    assert {one.caption: one.caption_trained for one in shown.videos} == {
        "A red circle.": True,
        "A circle.": False,
    }


def test_every_file_is_asked_about_and_every_question_is_asked_of_some(shown):
    asked = [(one.about, one.kind, one.question) for one in shown.questions]
    assert asked == [
        ("held_out/a.png", "image", "Question 0?"),
        ("held_out/a.png", "image", "Question 1?"),
        ("held_out/b.mp4", "video", "Question 2?"),
        ("held_out/b.mp4", "video", "Question 0?"),
        ("held_out/c.mp4", "video", "Question 1?"),
        ("held_out/c.mp4", "video", "Question 2?"),
    ]
