"""The toy world: files like a user's own, for a machine that has none.

out/videos/clip_00000.mp4   a clip of moving shapes, H.264
out/videos/clip_00000.json  {"caption": ..., "questions": [{"question": ..., "answer": ...}]}
out/texts/document_00000.txt
out/texts/document_00000.json  {"questions": [...]}
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from ringworld.core.config import from_json, to_json
from ringworld.core.errors import InputError
from ringworld.core.files import read_json, write_json_atomic, write_text_atomic
from ringworld.data import toy_clips
from ringworld.data.config import ToyWorldConfig
from ringworld.data.sources import Sidecar
from ringworld.data.toy_documents import write_document
from ringworld.vision.write_media import write_video

_CONFIG_FILE = "toy_world.json"


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
    _claim(out, config)
    total = config.clips + config.documents
    world = ToyWorld(videos=out / "videos", texts=out / "texts")
    for index in range(config.clips):
        _render_clip(world.videos / f"clip_{index:05d}", Random(f"{config.seed} clip {index}"), config)
        on_progress(index + 1, total)
    for index in range(config.documents):
        _write_text(world.texts / f"document_{index:05d}", Random(f"{config.seed} text {index}"), config)
        on_progress(config.clips + index + 1, total)
    return world


def _claim(out: Path, config: ToyWorldConfig) -> None:
    path = out / _CONFIG_FILE
    if not path.exists():
        write_json_atomic(path, to_json(config))
    elif from_json(ToyWorldConfig, read_json(path), where=str(path)) != config:
        raise InputError(
            what=str(out),
            got="a toy world of another configuration",
            expected="an empty folder, or the toy world that is asked for",
            remedy="Delete the folder or choose another.",
        )


def _render_clip(stem: Path, random: Random, config: ToyWorldConfig) -> None:
    video, sidecar = stem.with_suffix(".mp4"), stem.with_suffix(".json")
    if video.exists() and sidecar.exists():
        return
    scenes = toy_clips.draw_scenes(random, config)
    said = Sidecar(caption=toy_clips.caption(scenes), questions=toy_clips.questions(scenes))
    write_json_atomic(sidecar, to_json(said))
    write_video(video, toy_clips.render(scenes, config), frames_per_second=float(config.frames_per_second))


def _write_text(stem: Path, random: Random, config: ToyWorldConfig) -> None:
    text, sidecar = stem.with_suffix(".txt"), stem.with_suffix(".json")
    if text.exists() and sidecar.exists():
        return
    document = write_document(random, config)
    write_json_atomic(sidecar, to_json(Sidecar(questions=document.questions)))
    write_text_atomic(text, document.text + "\n")
