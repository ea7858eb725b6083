"""The toy world: files like a user's own, for a machine that has none.

out/videos/clip_00000.mp4   a clip of moving shapes, H.264
out/videos/held_out/...     clips that are not trained on; `plan_clips` says what they alone show
out/videos/clip_00000.json  {"caption": ..., "questions": [{"question": ..., "answer": ...}]}
out/texts/document_00000.txt
out/texts/document_00000.json  {"questions": [...]}
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from ringworld.core.config import to_json
from ringworld.core.errors import InputError
from ringworld.core.files import write_json_atomic, write_text_atomic
from ringworld.core.origin import Origin, claim
from ringworld.data.sidecars import Sidecar
from ringworld.data.sources import HELD_OUT_FOLDER
from ringworld.quickstart.config import ToyWorldConfig
from ringworld.quickstart.toy_clips import Pose, Scene, caption, draw_scenes, poses, questions, render
from ringworld.quickstart.toy_documents import write_document
from ringworld.vision.write_media import write_video

_MOST_DRAWS = 1000
Scenes = tuple[Scene, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ToyWorld:
    """Where the files of a toy world are."""

    videos: Path
    texts: Path


def render_toy_world(
    out: Path, config: ToyWorldConfig, *, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> ToyWorld:
    """Write the toy world of `config` under `out`; files that are there already are kept.

    Every file follows from the seed and its number alone and appears whole or not at all, so that a run that
    was stopped resumes where it was.

    After each file, `on_progress` gets the number of files done and the number of all.

    Raises:
        InputError: `out` holds the toy world of another configuration.
    """
    claim(out, Origin(kind="toy world", identity=to_json(config)))
    clips = plan_clips(config)
    total = len(clips) + config.documents
    world = ToyWorld(videos=out / "videos", texts=out / "texts")
    for index, (name, scenes) in enumerate(clips.items()):
        _write_clip(world.videos / name, scenes, config)
        on_progress(index + 1, total)
    for index in range(config.documents):
        _write_text(world.texts / f"document_{index:05d}", Random(f"{config.seed} text {index}"), config)
        on_progress(len(clips) + index + 1, total)
    return world


def plan_clips(config: ToyWorldConfig) -> dict[str, Scenes]:
    """Choose what every clip shows, by its name.

    What clips that are trained on never show: the scenes of those held out (color, shape, direction and
    place of the start), and some poses (color, shape and place). Of each color and shape, the first held-out
    clip that begins with it gives one place that it passes, and no more, so that every color, shape and place
    is still trained on in other company. Other frames of held-out clips may occur in clips that are trained
    on, and so may captions, which name no place.

    Raises:
        InputError: the held-out clips leave too little that they do not show.
    """
    held_out = {
        f"{HELD_OUT_FOLDER}/clip_{index:05d}": draw_scenes(
            Random(f"{config.seed} held-out clip {index}"), config
        )
        for index in range(config.held_out_clips)
    }
    unseen: dict[tuple[str, str], Pose] = {}
    for name, (first, *_) in held_out.items():
        passed = sorted(set(poses(first, config)))
        unseen.setdefault((first.color, first.shape), Random(f"{config.seed} {name}").choice(passed))
    taken = {_path(scene) for scenes in held_out.values() for scene in scenes}
    trained = {
        f"clip_{index:05d}": _draw_apart(
            Random(f"{config.seed} clip {index}"), config, taken=taken, unseen=set(unseen.values())
        )
        for index in range(config.clips)
    }
    return held_out | trained


def held_out_words(config: ToyWorldConfig) -> str:
    """Return, in words and numbers, how the held-out clips differ from those that are trained on."""
    clips = plan_clips(config)
    held_out, trained = [], []
    for name, scenes in clips.items():
        (held_out if name.startswith(f"{HELD_OUT_FOLDER}/") else trained).append(scenes)
    shown, known = (
        {pose for scenes in part for scene in scenes for pose in poses(scene, config)}
        for part in (held_out, trained)
    )
    captions = set(map(caption, trained))
    return (
        f"{len(held_out):,} clips. No clip trained on shows one of their scenes (color, shape, direction, "
        f"start), nor {len(shown - known):,} of the {len(shown):,} poses (color, shape, place) in them. "
        f"Captions name no place: {sum(caption(one) in captions for one in held_out):,} of them are also "
        "those of clips trained on."
    )


def _path(scene: Scene) -> Scene:
    return replace(scene, seconds=0.0)


def _draw_apart(random: Random, config: ToyWorldConfig, *, taken: set[Scene], unseen: set[Pose]) -> Scenes:
    for _ in range(_MOST_DRAWS):
        scenes = draw_scenes(random, config)
        if all(_path(scene) not in taken and unseen.isdisjoint(poses(scene, config)) for scene in scenes):
            return scenes
    raise InputError(
        f"{config.held_out_clips} held-out clips show nearly all scenes, and leave none to train on",
        field="held_out_clips",
        value=config.held_out_clips,
        remedy="lower held_out_clips or grid_pixels",
    )


def _write_clip(stem: Path, scenes: Scenes, config: ToyWorldConfig) -> None:
    video, sidecar = stem.with_suffix(".mp4"), stem.with_suffix(".json")
    if not (video.exists() and sidecar.exists()):
        write_json_atomic(sidecar, to_json(Sidecar(caption=caption(scenes), questions=questions(scenes))))
        write_video(video, render(scenes, config), frames_per_second=float(config.frames_per_second))


def _write_text(stem: Path, random: Random, config: ToyWorldConfig) -> None:
    text, sidecar = stem.with_suffix(".txt"), stem.with_suffix(".json")
    if not (text.exists() and sidecar.exists()):
        words, asked = write_document(random, config)
        write_json_atomic(sidecar, to_json(asked))
        write_text_atomic(text, words + "\n")
