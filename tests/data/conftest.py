import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jaxtyping import Int32, UInt8

from ringworld.data.config import PrepareConfig
from ringworld.data.prepare import prepare
from ringworld.data.prepare_report import PrepareReport
from ringworld.quickstart.config import ToyWorldConfig
from ringworld.quickstart.toy_world import ToyWorld, render_toy_world
from ringworld.text.tokenizer import TextTokenizer
from ringworld.text.vocabulary import Vocabulary
from ringworld.vision.write_media import write_image, write_video

TOY = ToyWorldConfig(
    clips=5, held_out_clips=1, documents=6, shortest_words=20, longest_words=200, clip_seconds=1.0
)
PREPARE = PrepareConfig(frames_per_second=4.0, max_frames=4, document_tokens=600, files_per_shard=5)


class Quarters:
    """A frame tokenizer without weights: each quarter of a frame has a code, its brightness from 0 to 7."""

    resolution = 32
    fingerprint = "quarters"

    def encode(self, frames: UInt8[np.ndarray, "frames side side 3"]) -> Int32[np.ndarray, "frames codes"]:
        count, side = frames.shape[:2]
        quarters = frames.reshape(count, 2, side // 2, 2, side // 2, 3).mean(axis=(2, 4, 5))
        return (quarters // 32).astype(np.int32).reshape(count, 4)


QUARTERS = Quarters()


@pytest.fixture(scope="session")
def toy_world(tmp_path_factory: pytest.TempPathFactory) -> ToyWorld:
    return render_toy_world(tmp_path_factory.mktemp("toy_world"), TOY)


@pytest.fixture(scope="session")
def tokenizer(toy_world: ToyWorld) -> TextTokenizer:
    texts = (path.read_text() for path in sorted(toy_world.texts.glob("*.txt")))
    return TextTokenizer.train(texts, vocab_size=400)


@pytest.fixture(scope="session")
def vocabulary(tokenizer: TextTokenizer) -> Vocabulary:
    return Vocabulary(text_size=tokenizer.size, codes=8, codes_per_frame=4)


@pytest.fixture(scope="session")
def run_prepare(tokenizer: TextTokenizer, vocabulary: Vocabulary):
    def run(out: Path, **changes: Any) -> PrepareReport:
        options = {
            "tokenizer": tokenizer,
            "frame_tokenizer": QUARTERS,
            "vocabulary": vocabulary,
            "config": PREPARE,
        }
        return prepare(out=out, **(options | changes))

    return run


@pytest.fixture(scope="session")
def prepared(run_prepare, toy_world: ToyWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the prepared toy world, never to be written to."""
    out = tmp_path_factory.mktemp("prepared")
    run_prepare(out, videos=(toy_world.videos,), texts=(toy_world.texts,))
    return out


@pytest.fixture
def write_clip():
    """Write a video of grey frames, the n-th of brightness `8 * n`, and what is said of it."""

    def write(path: Path, *, frames: int = 4, said: dict | None = None, rate: float = 4.0) -> Path:
        levels = (8 * np.arange(frames)).astype(np.uint8)
        grey = np.broadcast_to(levels[:, None, None, None], (frames, 32, 32, 3))
        if path.suffix == ".mp4":
            write_video(path, np.ascontiguousarray(grey), frames_per_second=rate)
        else:
            write_image(path, np.ascontiguousarray(grey[-1]))
        if said is not None:
            path.with_suffix(".json").write_text(json.dumps(said))
        return path

    return write
