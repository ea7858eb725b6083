"""What is shown of prepared examples; a tiny frame tokenizer gives pictures of its codes."""

import json
import re
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ringworld as rw
from ringworld.artifacts.tokenizers import Tokenizers
from ringworld.core.errors import InputError
from ringworld.data.config import ClipConfig, MixtureConfig
from ringworld.data.store import ExampleStore
from ringworld.presets import RunConfig, smoke
from ringworld.text.tokenizer import TextTokenizer
from ringworld.vision.frame_tokenizer import FrameTokenizer
from ringworld.vision.vqgan import FrameAutoencoder, draw_on_host
from ringworld.vision.write_media import write_image, write_video


@pytest.fixture(scope="module")
def run() -> RunConfig:
    run = smoke()
    stages = (
        replace(
            run.training.stages[0],
            name="seen",
            context_tokens=256,
            mixture=MixtureConfig(ratios={"in/video_qa": 1.0, "text": 1.0}),
            clips=ClipConfig(max_frames=2),
        ),
        replace(run.training.stages[1], name="read", context_tokens=256),
    )
    return replace(run, training=replace(run.training, stages=stages))


@pytest.fixture(scope="module")
def examples(run, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    folder = root / "in"
    asked = {"questions": [{"question": "What is it?", "answer": "grey"}]}
    for index in range(2):
        video = folder / f"{index}.mp4"
        write_video(video, np.full((3, 16, 16, 3), 40 * index, np.uint8), frames_per_second=4.0)
        video.with_suffix(".json").write_text(json.dumps(asked))
    write_image(folder / "c.png", np.zeros((16, 16, 3), np.uint8))
    (folder / "d.txt").write_text("The old man walks to the river. " * 3)
    (folder / "e.txt").write_bytes(b"\xff")
    assert run.frame_tokenizer is not None
    words = TextTokenizer.train(["The old man walks to the river."], vocab_size=run.model.text_vocab)
    shape, draw = run.frame_tokenizer, draw_on_host(1)
    seeing = FrameTokenizer(shape, FrameAutoencoder.init(shape, draw=draw))
    Tokenizers(text_tokenizer=words, frame_tokenizer=seeing).save(root / "tokenizer")
    nothing_held_out = replace(run, prepare=replace(run.prepare, held_out_fraction=0.0))
    rw.prepare(nothing_held_out, tokenizer=root / "tokenizer", videos=folder, texts=folder, out=root / "out")
    return root / "out"


def test_the_program_of_the_page_on_data_makes_a_batch_of_clips_and_books(
    examples, run, tmp_path, monkeypatch
):
    page = Path(__file__).parents[2] / "docs/data.md"
    (program,) = (
        one for one in re.findall("```python\n(.*?)```", page.read_text(), re.S) if "PackedLoader" in one
    )
    monkeypatch.chdir(tmp_path)
    Path("tokenizer").symlink_to(examples.parent / "tokenizer")
    said = {"caption": "A grey square.", "questions": [{"question": "What is it?", "answer": "grey"}]}
    for index in range(3):
        video = Path(f"clips/{index}.mp4")
        write_video(video, np.full((3, 16, 16, 3), 40 * index, np.uint8), frames_per_second=4.0)
        video.with_suffix(".json").write_text(json.dumps(said))
    Path("books").mkdir()
    Path("books/a.txt").write_text("The old man walks to the river. " * 3)
    monkeypatch.setattr(rw.presets, "laptop", lambda: run)
    names: dict[str, Any] = {}
    exec(program, names)
    with closing(names["loader"]):
        assert {array.shape for array in names["packed"].batch} == {(2, 4096)}
        assert min(one.examples for one in names["packed"].drawn.values()) > 0


def test_lengths_are_counted_by_data_set_and_kind_and_drawn(examples, tmp_path):
    stats = rw.data_stats(examples, out=tmp_path / "lengths.png")
    lengths = ExampleStore(examples).lengths()
    assert {(one.dataset, one.kind): one.examples for one in stats.parts} == {
        ("in", "text"): 1,
        ("in", "video"): 3,
        ("in", "video_qa"): 2,
    }
    assert sum(one.tokens for one in stats.parts) == lengths.sum()
    assert max(one.longest for one in stats.parts) == lengths.max()
    assert all(sum(one.histogram) == one.examples for one in stats.parts)
    assert (stats.quarantined, stats.duplicates) == (1, 0)
    (asked,) = (one for one in stats.parts if one.kind == "video_qa")
    assert (asked.shortest_seconds, asked.longest_seconds, asked.seconds_histogram) == (0.75, 0.75, (2,))
    assert {one.seconds_histogram for one in stats.parts if one.kind == "text"} == {()}
    with Image.open(tmp_path / "lengths.png") as picture:
        assert picture.width > 100
    with pytest.raises(InputError) as refused:
        rw.data_stats(examples, out=tmp_path / "lengths.gif")
    assert refused.value.field == "out"


def test_the_first_batch_of_a_stage_is_shown_as_pictures_and_words(examples, run, tmp_path):
    files = rw.data_show(examples, out=tmp_path, run=run)
    assert [path.name for path in files] == ["seen-0.png", "seen-0.txt", "seen-1.png", "seen-1.txt"]
    for picture in files[::2]:
        with Image.open(picture) as image:
            assert np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0).shape[0] > 4
    words = "".join(path.read_text() for path in files[1::2])
    assert "What is it?" in words and "<2 frames>" in words
    assert "\N{LEFT WHITE SQUARE BRACKET} grey" in words


def test_of_many_clips_those_alone_are_decoded_of_which_pictures_are_shown(
    examples, run, tmp_path, monkeypatch
):
    decoded: list[int] = []
    decode = FrameTokenizer.decode

    def counted(self, codes):
        decoded.append(len(codes))
        return decode(self, codes)

    monkeypatch.setattr(FrameTokenizer, "decode", counted)
    mixture = MixtureConfig(ratios={"video_qa": 1.0})
    long = replace(run.training.stages[0], context_tokens=2048, mixture=mixture)
    _, words, *_ = rw.data_show(
        examples, out=tmp_path, run=replace(run, training=replace(run.training, stages=(long,)))
    )
    assert words.read_text().count("<2 frames>") > 12 and max(decoded) == 12 * 2


def test_the_run_that_data_was_prepared_for_is_shown_unless_another_is_given(examples, tmp_path):
    shown = rw.data_show(examples, out=tmp_path, stage="read")
    assert {path.name.split("-")[0] for path in shown} == {"read"}
    for wrong, field in (({"out": tmp_path, "stage": "no"}, "stage"), ({}, "out")):
        with pytest.raises(InputError) as refused:
            rw.data_show(examples, **wrong)
        assert refused.value.field == field
    file = shown[0]
    with pytest.raises(InputError) as refused:
        rw.data_show(examples, out=file, stage="read")
    assert refused.value.path == file
