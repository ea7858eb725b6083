import json
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from ringworld.data.config import PrepareConfig
from ringworld.data.find_sources import find_sources
from ringworld.data.frame_batches import FrameBatches
from ringworld.data.making import ExampleMaker, Problems
from tests.data.conftest import Quarters


def frame(level: int) -> np.ndarray:
    return np.full((32, 32, 3), level, np.uint8)


class Counting(Quarters):
    """Counts the frames of each batch, and can be held."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def encode(self, frames):
        assert self.may_go_on.wait(10)
        self.batches.append(len(frames))
        return super().encode(frames)


def test_a_batch_is_encoded_while_the_next_is_added():
    encoder = Counting()
    encoder.may_go_on.clear()
    with closing(FrameBatches(encoder, batch_frames=2)) as batches:
        assert [batches.add(frame(32 * i)) for i in range(3)] == [0, 1, 2]  # which waits for nothing
        assert (batches.added, batches.encoded) == (3, 0)
        encoder.may_go_on.set()
        batches.add(frame(96))
        assert batches.encoded == 2
        batches.add(frame(128))
        batches.flush()
        assert batches.encoded == 5 and encoder.batches == [2, 2, 1]
        assert batches.codes([4, 0, 1]).tolist() == [[4] * 4, [0] * 4, [1] * 4]
        batches.forget(before=4)
        assert batches.codes([4]).tolist() == [[4] * 4]
        with pytest.raises(KeyError):
            batches.codes([3])


def test_what_an_encoder_refuses_is_said_of_no_file():
    class Refusing(Quarters):
        def encode(self, frames):
            raise ValueError("no")

    batches = FrameBatches(Refusing())
    batches.add(frame(0))
    with pytest.raises(RuntimeError):
        batches.flush()
    batches.close()


def test_images_and_clips_of_several_files_are_encoded_together(
    tmp_path: Path, tokenizer, vocabulary, write_clip
):
    folder = tmp_path / "in"
    for index in range(30):
        write_clip(folder / f"{index:02d}.png", frames=1 + index)
    write_clip(folder / "40.mp4", frames=4, said={"caption": "A dog."})
    cut = write_clip(tmp_path / "cut.png", frames=4)
    cut.write_bytes(cut.read_bytes()[:-40])
    shown = [{"type": "image", "image": name} for name in ("00.png", "../cut.png")]
    said = [{"role": "user", "content": shown}, {"role": "assistant", "content": "Two."}]
    (folder / "41.jsonl").write_text(json.dumps({"messages": said}))
    (folder / "42.jsonl").write_text('{"text": "Red."}')
    write_clip(folder / "43.mp4", frames=4)
    config = PrepareConfig(held_out_fraction=0.0, images_per_video=0, document_tokens=600)
    sources = find_sources(videos=[folder], config=config)
    encoder = Counting()
    maker = ExampleMaker(tokenizer=tokenizer, vocabulary=vocabulary, config=config, frame_tokenizer=encoder)
    problems = Problems(quarantined=[])
    groups = list(maker.of_files(sources, problems))
    assert encoder.batches[0] == 32 and len(encoder.batches) == 2
    # In the order of the files, each with its own frames, and none of a sample that is damaged in part.
    assert [group.examples[0].example.source for group in groups] == [
        *(f"{index:02d}.png" for index in range(30)),
        "40.mp4",
        "42.jsonl#1",
        "43.mp4",
    ]
    assert [one.path for one in problems.quarantined] == ["41.jsonl#1"]
    levels = [group.clips[0].codes[-1, 0] for group in groups if group.clips]
    assert levels[:30] == [8 * index // 32 for index in range(30)] and set(levels[30:]) == {0}
