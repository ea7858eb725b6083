import re
import shutil
from dataclasses import replace
from math import nan
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from ringworld.core.errors import InputError
from ringworld.data.config import PrepareConfig
from ringworld.data.find_sources import find_sources
from ringworld.data.sidecars import read_sidecars
from ringworld.quickstart import toy_clips
from ringworld.quickstart.config import ToyWorldConfig, full
from ringworld.quickstart.toy_clips import COLORS, SHAPES, Pose, Scene
from ringworld.quickstart.toy_world import ToyWorld, held_out_words, plan_clips, render_toy_world
from ringworld.vision.media import stream_video

SMALL = ToyWorldConfig(
    clips=2, held_out_clips=0, documents=2, shortest_words=20, longest_words=40, clip_seconds=0.5
)
RENDERED = ToyWorldConfig(
    clips=1, held_out_clips=0, documents=6, shortest_words=20, longest_words=200, clip_seconds=1.0
)
STILL = ToyWorldConfig(grid_pixels=0, clip_seconds=1.0, frames_per_second=4)


@pytest.fixture(scope="module")
def toy_world(tmp_path_factory: pytest.TempPathFactory) -> ToyWorld:
    return render_toy_world(tmp_path_factory.mktemp("toy_world"), RENDERED)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_same_seed_gives_the_same_files_and_another_seed_others(tmp_path: Path):
    for name in ("one", "two"):
        render_toy_world(tmp_path / name, SMALL)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(contents(tmp_path / "one")) == 2 * (2 + 2) + 1


def test_a_run_that_was_stopped_goes_on_and_keeps_what_is_there(tmp_path: Path):
    class Stop(Exception):
        pass

    def stop_at_two(done: int, total: int) -> None:
        if done == 2:
            raise Stop

    with pytest.raises(Stop):
        render_toy_world(tmp_path / "one", SMALL, on_progress=stop_at_two)
    before = contents(tmp_path / "one")
    (tmp_path / "one/videos/clip_00001.mp4").unlink()
    render_toy_world(tmp_path / "one", SMALL)
    after = contents(tmp_path / "one")
    assert before.items() <= after.items()
    shutil.rmtree(tmp_path / "one")
    assert contents(render_toy_world(tmp_path / "one", SMALL).videos.parent) == after


def test_a_folder_of_another_configuration_is_refused(tmp_path: Path):
    render_toy_world(tmp_path, SMALL)
    with pytest.raises(InputError) as refused:
        render_toy_world(tmp_path, ToyWorldConfig(clips=3))
    assert refused.value.path == tmp_path


def test_clips_are_videos_of_the_asked_size_and_length(toy_world: ToyWorld):
    stream = stream_video(toy_world.videos / "clip_00000.mp4", frames_per_second=4.0, resolution=64)
    assert [frame.shape for _, frame in stream] == 4 * [(64, 64, 3)]


def shape_box(frame: np.ndarray, color: str) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the pixels that are nearer to `color` than to the background."""
    return box(np.abs(frame.astype(int) - COLORS[color]).sum(-1) < 60)


def box(chosen: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(chosen.any(1)), np.flatnonzero(chosen.any(0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


@pytest.mark.parametrize(
    ("direction", "moves"), [("right", (1, 0)), ("left", (-1, 0)), ("up", (0, -1)), ("down", (0, 1))]
)
def test_a_shape_moves_as_its_caption_says(direction, moves):
    scene = Scene(color="red", shape="square", direction=direction, start=(20.0, 20.0), seconds=1.0)
    frames = toy_clips.render((scene,), STILL)
    first, last = shape_box(frames[0], "red"), shape_box(frames[-1], "red")
    assert first == (20, 20, 44, 44)
    moved = 12  # 16 pixels a second, for the 0.75 s between the first and the last of four frames
    assert last[:2] == (20 + moves[0] * moved, 20 + moves[1] * moved)
    assert toy_clips.caption((scene,)) == f"A red square moves {direction}."


def test_a_cut_shows_one_scene_after_the_other_and_asks_about_both():
    scenes = (
        Scene(color="red", shape="circle", direction="right", start=(8.0, 8.0), seconds=0.5),
        Scene(color="blue", shape="square", direction="up", start=(16.0, 16.0), seconds=0.5),
    )
    frames = toy_clips.render(scenes, STILL)
    assert len(frames) == 4
    assert shape_box(frames[1], "red") and shape_box(frames[2], "blue") == (16, 16, 40, 40)
    assert toy_clips.caption(scenes) == "A red circle moves right, then a blue square moves up."
    answers = {asked.question: asked.answer for asked in toy_clips.questions(scenes)}
    assert answers["What color is the shape at first?"] == "red"
    assert answers["Which way does it move after the cut?"] == "up"


@pytest.mark.parametrize("grid", [0, 4, 16])
def test_shapes_stay_whole_and_on_the_grid(grid):
    config = ToyWorldConfig(grid_pixels=grid, cut_fraction=0.5)
    for seed in range(20):
        scenes = toy_clips.draw_scenes(Random(seed), config)
        for scene, frame in zip(scenes, toy_clips.render(scenes, config)[:: 16 // len(scenes)]):
            left, top, right, bottom = box((frame != (24, 24, 32)).any(-1))
            # Off the grid the edges lie within a pixel.
            assert config.shape_pixels <= min(right - left, bottom - top)
            assert max(right - left, bottom - top) <= config.shape_pixels + (grid == 0)
            assert grid == 0 or all(edge % grid == 0 for edge in scene.start)
        for scene in scenes:
            step = toy_clips.DIRECTIONS[scene.direction]
            ends = [s + d * config.speed_pixels * scene.seconds for s, d in zip(scene.start, step)]
            assert all(0 <= edge <= 64 - config.shape_pixels for edge in (*scene.start, *ends))


def test_every_answer_about_a_document_stands_in_it_at_varied_depth(toy_world: ToyWorld):
    depths = []
    for source in find_sources(videos=[], texts=[toy_world.texts], config=PrepareConfig()):
        text, sidecar = source.path.read_text(), read_sidecars(source.sidecars)
        assert sidecar.questions
        for asked in sidecar.questions:
            for sentence in asked.answer.rstrip(".").split(". "):
                assert sentence in text
                depths.append(text.index(sentence) / len(text))
    assert min(depths) < 0.2 and max(depths) > 0.8


def test_documents_are_spread_from_short_to_long(tmp_path: Path):
    config = ToyWorldConfig(clips=0, held_out_clips=0, documents=60, shortest_words=20, longest_words=500)
    world = render_toy_world(tmp_path, config)
    words = sorted(len(path.read_text().split()) for path in world.texts.glob("*.txt"))
    assert words[0] < 70 and words[-1] > 350 and 80 < words[30] < 250


def test_a_shape_that_would_leave_the_frame_is_refused():
    with pytest.raises(InputError) as refused:
        ToyWorldConfig(clip_seconds=4.0)
    assert refused.value.field == "speed_pixels"


@pytest.mark.parametrize(
    "wrong",
    [
        {"clip_seconds": -1.0},
        {"speed_pixels": nan},
        {"cut_fraction": 1.5},
        {"frames_per_second": 0},
        {"shortest_words": 5000},
    ],
    ids=str,
)
def test_a_toy_world_that_cannot_be_drawn_is_refused(wrong: dict[str, Any]):
    with pytest.raises(InputError) as refused:
        ToyWorldConfig(**wrong)
    assert refused.value.field == next(iter(wrong))


def test_held_out_clips_alone_show_some_poses_and_the_rest_of_the_world_is_learnt():
    config = full().toy_world
    assert isinstance(config, ToyWorldConfig)
    scenes: dict[bool, set[Scene]] = {True: set(), False: set()}
    poses: dict[bool, set[Pose]] = {True: set(), False: set()}
    captions: dict[bool, set[str]] = {True: set(), False: set()}
    for name, clip in plan_clips(config).items():
        held_out = name.startswith("held_out/")
        scenes[held_out] |= {replace(scene, seconds=0.0) for scene in clip}
        poses[held_out] |= {pose for scene in clip for pose in toy_clips.poses(scene, config)}
        captions[held_out].add(toy_clips.caption(clip))
    assert not scenes[True] & scenes[False]
    # One place of most colors and shapes: such a clip begins in one of 24 ways.
    unseen = poses[True] - poses[False]
    assert len({(color, shape) for color, shape, _ in unseen}) == len(unseen) >= 12
    # Held-out captions of one scene can be drawn: training shows nearly all of them too, at other places.
    single = {one for one in captions[True] if "then" not in one}
    assert len(single & captions[False]) / len(single) > 0.8
    places = {place for _, _, place in poses[True] | poses[False]}
    assert len(places) == 9
    every = {(color, shape, place) for color in COLORS for shape in SHAPES for place in places}
    assert poses[False] == every - unseen
    numbers = re.findall(r"\d+", held_out_words(config))
    assert {str(len(unseen)), str(len(poses[True]))} <= set(numbers)
