"""The toy world: files like a user's own, for a machine that has none.

out/videos/clip_00000.mp4   a clip of moving shapes, H.264
out/videos/held_out/...     clips that are not trained on
out/videos/clip_00000.json  {"caption": ..., "questions": [{"question": ..., "answer": ...}]}
out/texts/document_00000.txt
out/texts/document_00000.json  {"questions": [...]}
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from ringworld.core.config import to_json
from ringworld.core.errors import InputError
from ringworld.core.files import claim_folder, write_json_atomic, write_text_atomic
from ringworld.data.config import ToyWorldConfig
from ringworld.data.sources import HELD_OUT_FOLDER, Sidecar
from ringworld.data.toy_clips import Clip, ScenePath, caption, draw_scenes, questions, render
from ringworld.data.toy_documents import write_document
from ringworld.vision.write_media import write_video

_CONFIG_FILE = "toy_world.json"
_MOST_DRAWS = 1000


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
    was stopped goes on where it was.

    Args:
        out: folder to write in.
        config: what to write.
        on_progress: called after each file with the number of files done and the number of all.

    Raises:
        InputError: `out` holds the toy world of another configuration.
    """
    claim_folder(out / _CONFIG_FILE, to_json(config), holds="a toy world of another configuration")
    clips = plan_clips(config)
    total = len(clips) + config.documents
    world = ToyWorld(videos=out / "videos", texts=out / "texts")
    for index, (name, clip) in enumerate(clips.items()):
        _render_clip(world.videos / name, clip, config)
        on_progress(index + 1, total)
    for index in range(config.documents):
        _write_text(world.texts / f"document_{index:05d}", Random(f"{config.seed} text {index}"), config)
        on_progress(len(clips) + index + 1, total)
    return world


def plan_clips(config: ToyWorldConfig) -> dict[str, Clip]:
    """Choose what every clip shows, by its name; no scene and no frame of those held out is trained on.

    Clips to train on are dimmed by an even number of percent and those held out by an odd one, which moves
    the brightest channel of any shape by more than one step of 255: where a held-out shape crosses a place
    that another scene crosses too, the frames still differ.

    Raises:
        InputError: the held-out clips leave too little that they do not show.
    """
    held_out = {
        f"{HELD_OUT_FOLDER}/clip_{index:05d}": _draw_clip(
            Random(f"{config.seed} held-out clip {index}"),
            config,
            dimmed=range(1, config.dimmed_percent + 1, 2),
        )
        for index in range(config.held_out_clips)
    }
    taken = frozenset[ScenePath]().union(*(clip.paths for clip in held_out.values()))
    trained = {
        f"clip_{index:05d}": _draw_apart(Random(f"{config.seed} clip {index}"), taken, config)
        for index in range(config.clips)
    }
    return held_out | trained


def _draw_apart(random: Random, taken: frozenset[ScenePath], config: ToyWorldConfig) -> Clip:
    for _ in range(_MOST_DRAWS):
        clip = _draw_clip(random, config, dimmed=range(0, config.dimmed_percent + 1, 2))
        if taken.isdisjoint(clip.paths):
            return clip
    raise InputError(
        what="toy world",
        got=f"{config.held_out_clips} held-out clips, which show nearly all that there is",
        expected="some scenes that are left for training",
        remedy="Lower held_out_clips or grid_pixels.",
    )


def _draw_clip(random: Random, config: ToyWorldConfig, *, dimmed: Sequence[int]) -> Clip:
    return Clip(scenes=draw_scenes(random, config), dimmed_percent=random.choice(dimmed))


def _render_clip(stem: Path, clip: Clip, config: ToyWorldConfig) -> None:
    video, sidecar = stem.with_suffix(".mp4"), stem.with_suffix(".json")
    if video.exists() and sidecar.exists():
        return
    said = Sidecar(caption=caption(clip.scenes), questions=questions(clip.scenes))
    write_json_atomic(sidecar, to_json(said))
    write_video(video, render(clip, config), frames_per_second=float(config.frames_per_second))


def _write_text(stem: Path, random: Random, config: ToyWorldConfig) -> None:
    text, sidecar = stem.with_suffix(".txt"), stem.with_suffix(".json")
    if text.exists() and sidecar.exists():
        return
    document = write_document(random, config)
    write_json_atomic(sidecar, to_json(Sidecar(questions=document.questions)))
    write_text_atomic(text, document.text + "\n")
