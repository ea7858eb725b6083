"""Text, answers, images and videos from a trained model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ringworld.cli.generate import Generate
from ringworld.cli.jobs.measure import build_engine, restore_model
from ringworld.cli.jobs.setup import load_tokenizers, open_mesh
from ringworld.core.config import to_json, write_run
from ringworld.core.errors import InputError
from ringworld.core.files import write_json_atomic
from ringworld.data.config import PrepareConfig
from ringworld.data.frames import read_spread
from ringworld.data.read_text import read_text
from ringworld.data.sources import find_sources
from ringworld.inference.config import SamplingConfig
from ringworld.inference.engine import Engine, Question
from ringworld.presets import RunConfig
from ringworld.vision.write_media import write_image, write_video

_WATCHABLE_PIXELS = 256


def generate(asked: Generate, run: RunConfig) -> str:
    """Make what is asked for, write it to `asked.out`, and return the text or the path of the picture."""
    run, mesh = open_mesh(run, devices=asked.devices)
    model, stage, step = restore_model(run, folder=asked.model, mesh=mesh)
    text, frames = load_tokenizers(run, asked.tokenizer)
    engine = build_engine(run, model, stage, text=text, frames=frames, mesh=mesh)
    draws = asked.kind in ("image", "video")
    defaults = {"image": run.image_sampling, "video": run.video_sampling}
    sampling = _sampling(asked, defaults.get(asked.kind, run.text_sampling))
    made = (_draw if draws else _write)(asked, run, engine, sampling)
    write_run(asked.out, run)
    write_json_atomic(asked.out / "output.json", _account(asked, sampling, step=step) | {"output": made})
    return made


def _account(asked: Generate, sampling: SamplingConfig, *, step: int) -> dict[str, Any]:
    """Return every option with the value that was used, whoever gave it, and the updates of the model."""
    used = to_json(asked) | to_json(sampling) | {"model_step": step, "frames": _frames(asked)}
    folders = {name: getattr(asked, name) for name in ("model", "tokenizer", "about")}
    return used | {name: str(path.resolve()) for name, path in folders.items() if path}


def _frames(asked: Generate) -> int:
    return asked.frames if asked.kind == "video" else 1


def _draw(asked: Generate, run: RunConfig, engine: Engine, sampling: SamplingConfig) -> str:
    drawn = engine.generate_frames([asked.prompt], frames=_frames(asked), sampling=sampling)
    path = asked.out / ("video.mp4" if asked.kind == "video" else "image.png")
    save_frames(path, drawn[0], run)
    return str(path)


def _write(asked: Generate, run: RunConfig, engine: Engine, sampling: SamplingConfig) -> str:
    if asked.kind == "text":
        return engine.complete([asked.prompt], max_new_tokens=asked.max_new_tokens, sampling=sampling)[0]
    question = read_question(asked.prompt, asked.about, run)
    return engine.answer([question], max_new_tokens=asked.max_new_tokens, sampling=sampling)[0]


def _sampling(asked: Generate, default: SamplingConfig) -> SamplingConfig:
    names = ("temperature", "top_k", "guidance_scale", "seed")
    return replace(default, **{name: value for name in names if (value := getattr(asked, name)) is not None})


def read_question(text: str, about: Path | None, run: RunConfig) -> Question:
    """Return a question about a video, an image, a text, or nothing, as the file's ending says.

    Raises:
        InputError: the file cannot be read or its ending is of no known kind.
    """
    if about is None:
        return Question(text=text)
    if not about.is_file():
        raise InputError(
            what=f"--about {about}",
            got="no such file",
            expected="a video, an image or a text file",
            remedy="Check its name.",
        )
    pictured = about.suffix.lower() not in (".txt", ".md")
    single = (about,)
    source = find_sources(
        videos=single if pictured else (), texts=() if pictured else single, config=PrepareConfig()
    )[0]
    if not pictured:
        return Question(text=text, document=read_text(about, max_bytes=run.prepare.max_text_bytes))
    frames = read_spread(
        source,
        most_frames=run.prepare.max_frames,
        frames_per_second=run.prepare.frames_per_second,
        resolution=run.frames.resolution,
    )
    return Question(text=text, frames=frames)


def save_frames(path: Path, frames: UInt8[np.ndarray, "frames side side 3"], run: RunConfig) -> None:
    """Write frames [frames, side, side, 3] as an MP4 or a PNG, by the ending, large enough to be watched."""
    scale = max(1, _WATCHABLE_PIXELS // run.frames.resolution)
    if path.suffix == ".png":
        write_image(path, frames[0], scale=scale)
    else:
        write_video(path, frames, frames_per_second=run.prepare.frames_per_second, scale=scale)
