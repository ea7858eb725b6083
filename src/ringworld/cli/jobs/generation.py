"""Text, answers, images and videos from a trained model."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ringworld.cli.generate import Generate
from ringworld.cli.jobs.measure import build_engine, restore_model
from ringworld.cli.jobs.setup import load_tokenizers, open_mesh
from ringworld.cli.options import open_folder, option_name
from ringworld.core.config import to_json, write_run
from ringworld.core.errors import InputError
from ringworld.core.files import write_json_atomic
from ringworld.data.frames import read_spread
from ringworld.data.read_text import read_text
from ringworld.data.sources import IMAGE_SUFFIXES, TEXT_SUFFIXES, VIDEO_SUFFIXES, Source, why_no_file
from ringworld.inference.config import SamplingConfig
from ringworld.inference.engine import Engine, Question
from ringworld.presets import RunConfig
from ringworld.vision.write_media import write_image, write_video

_WATCHABLE_PIXELS = 256
_ONLY_FOR = {
    "about": ("answer",),
    "frames": ("video",),
    "max_new_tokens": ("text", "answer"),
    "guidance_scale": ("image", "video"),
}
"""Options that not every kind heeds."""


def generate(asked: Generate, run: RunConfig) -> str:
    """Make what is asked for, write it to `asked.out`, and return the text or the path of the picture.

    Raises:
        InputError: an option does not fit the kind or makes no sense, or a file or folder cannot be used.
    """
    check_kind(asked)
    defaults = {"image": run.image_sampling, "video": run.video_sampling}
    with as_typed(asked):
        sampling = _sampling(asked, defaults.get(asked.kind, run.text_sampling))
    question = read_question(asked.prompt, asked.about, run)
    open_folder(asked.out)
    run, mesh = open_mesh(run, devices=asked.devices)
    model, stage, step = restore_model(run, folder=asked.model, mesh=mesh)
    text, frames = load_tokenizers(run, asked.tokenizer)
    engine = build_engine(run, model, stage, text=text, frames=frames, mesh=mesh)
    with as_typed(asked):
        if asked.kind in ("image", "video"):
            made = _draw(asked, run, engine, sampling)
        else:
            made = _write(asked, question, engine, sampling)
    write_run(asked.out, run)
    write_json_atomic(asked.out / "output.json", _account(asked, sampling, step=step) | {"output": made})
    return made


def check_kind(asked: Generate) -> None:
    """Refuse an option that the kind would not heed.

    Raises:
        InputError: there is one, with another value than it has if it is left out.
    """
    default = {option.name: option.default for option in fields(asked)}
    for name, kinds in _ONLY_FOR.items():
        if asked.kind not in kinds and getattr(asked, name) != default[name]:
            raise InputError(
                what=option_name(name),
                got=f"it with --kind {asked.kind}",
                expected=f"it only for --kind {' or '.join(kinds)}",
                remedy="Leave it out, or ask for another kind.",
            )


@contextmanager
def as_typed(asked: Generate) -> Iterator[None]:
    """Let errors name options as they are typed: `--top-k` for `top_k`, and all that a prompt is made of."""
    about = () if asked.about is None else (f"--about {asked.about}",)
    length = {"image": (), "video": ("--frames",)}.get(asked.kind, ("--max-new-tokens",))
    typed = {name: option_name(name) for name in ("temperature", "top_k", "guidance_scale", "seed", "frames")}
    typed["new tokens"] = option_name("max_new_tokens")
    typed["prompt"] = " and ".join(("--prompt", *about, *length))
    try:
        yield
    except InputError as error:
        raise InputError(
            what=typed.get(error.what, error.what),
            got=error.got,
            expected=error.expected,
            remedy=error.remedy,
        ) from error


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


def _write(asked: Generate, question: Question, engine: Engine, sampling: SamplingConfig) -> str:
    if asked.kind == "text":
        return engine.complete([asked.prompt], max_new_tokens=asked.max_new_tokens, sampling=sampling)[0]
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
    suffix = about.suffix.lower()
    known = VIDEO_SUFFIXES | IMAGE_SUFFIXES | TEXT_SUFFIXES
    if problem := _unusable(about, suffix, known):
        raise InputError(
            what=f"--about {about}",
            got=problem,
            expected=f"a file that ends in {', '.join(sorted(known))}",
            remedy="Check its name.",
        )
    if suffix in TEXT_SUFFIXES:
        return Question(text=text, document=read_text(about, max_bytes=run.prepare.max_text_bytes))
    format_ = "video" if suffix in VIDEO_SUFFIXES else "image"
    source = Source(path=about, relative=about.name, format=format_)
    frames = read_spread(
        source,
        most_frames=run.prepare.max_frames,
        frames_per_second=run.prepare.frames_per_second,
        resolution=run.frames.resolution,
    )
    return Question(text=text, frames=frames)


def _unusable(about: Path, suffix: str, known: frozenset[str]) -> str:
    """Say why a file cannot be asked about, or nothing."""
    if about.is_dir():
        return "a folder"
    if not about.is_file():
        return why_no_file(about) or "no such file"
    if suffix not in known:
        return f"a file that ends in {suffix}" if suffix else "a file without an ending"
    return ""


def save_frames(path: Path, frames: UInt8[np.ndarray, "frames side side 3"], run: RunConfig) -> None:
    """Write frames [frames, side, side, 3] as an MP4 or a PNG, by the ending, large enough to be watched."""
    scale = max(1, _WATCHABLE_PIXELS // run.frames.resolution)
    if path.suffix == ".png":
        write_image(path, frames[0], scale=scale)
    else:
        write_video(path, frames, frames_per_second=run.prepare.frames_per_second, scale=scale)
