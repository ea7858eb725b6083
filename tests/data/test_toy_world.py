import shutil
from pathlib import Path
from random import Random

import numpy as np
import pytest

from ringworld.core.errors import InputError
from ringworld.data import toy_clips
from ringworld.data.config import PrepareConfig, ToyWorldConfig
from ringworld.data.sources import find_sources, read_sidecar
from ringworld.data.toy_clips import COLORS, Clip, Scene, ScenePath
from ringworld.data.toy_world import ToyWorld, plan_clips, render_toy_world
from ringworld.vision.media import read_video

SMALL = ToyWorldConfig(
    clips=2, held_out_clips=0, documents=2, shortest_words=20, longest_words=40, clip_seconds=0.5
)
STILL = ToyWorldConfig(grid_pixels=0, clip_seconds=1.0, frames_per_second=4)


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
    with pytest.raises(InputError, match="another configuration"):
        render_toy_world(tmp_path, ToyWorldConfig(clips=3))


def test_clips_are_videos_of_the_asked_size_and_length(toy_world: ToyWorld):
    read = read_video(toy_world.videos / "clip_00000.mp4", frames_per_second=4.0, resolution=64)
    assert read.frames.shape == (4, 64, 64, 3)


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
    frames = toy_clips.render(Clip(scenes=(scene,)), STILL)
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
    frames = toy_clips.render(Clip(scenes=scenes), STILL)
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
        for scene, frame in zip(scenes, toy_clips.render(Clip(scenes=scenes), config)[:: 16 // len(scenes)]):
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
        text, sidecar = source.path.read_text(), read_sidecar(source)
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
    with pytest.raises(InputError, match="64 pixels in a clip"):
        ToyWorldConfig(clip_seconds=4.0)


def test_no_scene_and_no_frame_of_a_held_out_clip_is_in_one_that_is_trained_on():
    config = ToyWorldConfig(clips=60, held_out_clips=6, grid_pixels=16)
    scenes: dict[bool, set[ScenePath]] = {True: set(), False: set()}
    frames: dict[bool, set[bytes]] = {True: set(), False: set()}
    for name, clip in plan_clips(config).items():
        held_out = name.startswith("held_out/")
        scenes[held_out] |= clip.paths
        frames[held_out] |= {frame.tobytes() for frame in toy_clips.render(clip, config)}
    for kind in (scenes, frames):
        assert kind[True] and kind[False]
        assert not kind[True] & kind[False]


def test_neighbouring_steps_of_light_differ_in_every_shape():
    config = ToyWorldConfig(grid_pixels=0, clip_seconds=0.125)
    for color in COLORS:
        scene = Scene(color=color, shape="cross", direction="up", start=(20.0, 20.0), seconds=0.125)
        lights = [
            toy_clips.render(Clip(scenes=(scene,), dimmed_percent=percent), config) for percent in range(51)
        ]
        assert len({frame.tobytes() for frame in lights}) == 51
