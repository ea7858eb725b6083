"""`ringworld generate`: one result of a model, with an account of how it was made."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import UInt8

from ringworld.api.load import load_opened
from ringworld.api.machine import PathArgument, begin_process
from ringworld.artifacts.model_folder import ModelFolder
from ringworld.core.config import to_json
from ringworld.core.errors import InputError, not_a_choice
from ringworld.core.files import write_json_atomic
from ringworld.core.origin import Origin, claim, parent, working_in
from ringworld.data.find_sources import TEXT_SUFFIXES, why_no_file
from ringworld.inference.arguments import texts_of
from ringworld.inference.completion import Completion
from ringworld.inference.config import SamplingConfig
from ringworld.model.config import WeightType
from ringworld.vision.media import media_format
from ringworld.vision.write_media import write_image, write_video

Kind = Literal["text", "answer", "image", "video"]
_WATCHABLE_PIXELS = 256
_ONLY_FOR = {
    "about": ("answer",),
    "frames": ("video",),
    "max_new_tokens": ("text", "answer"),
    "stop": ("text", "answer"),
    "samples": ("text", "answer"),
    "guidance_scale": ("image", "video"),
}
"""What not every kind heeds."""
_USUAL: dict[str, Any] = {"frames": 6, "max_new_tokens": 64, "stop": [], "samples": 1}


def generate(
    model: PathArgument,
    *,
    kind: Kind,
    prompt: str,
    out: PathArgument,
    about: PathArgument | None = None,
    frames: int | None = None,
    max_new_tokens: int | None = None,
    stop: str | Sequence[str] = (),
    samples: int | None = None,
    sampling: Mapping[str, Any] | None = None,
    weights: WeightType | None = None,
    devices: int | None = None,
) -> str:
    """Write a text, an answer, an image or a video to a folder, and return the text or the path.

    What is None is as usual: 6 frames of a video, 64 tokens, one sample. In `sampling` are fields of
    `SamplingConfig` that differ from the model's defaults; None leaves one. The folder `out` gains
    `output.json`, with all samples of a text or answer, `origin.json`, and `image.png` or `video.mp4`, over
    those of an earlier call.

    Raises:
        InputError: there is no such kind, or it does not heed what is given, a number makes no sense, a file
            or folder cannot be used, or `out` holds files of others.
    """
    if kind not in get_args(Kind):
        raise not_a_choice("kind", str(kind), choices=get_args(Kind))
    model, out, sampling = Path(model), Path(out), sampling or {}
    asked: dict[str, Any] = {
        "about": about,
        "frames": frames,
        "max_new_tokens": max_new_tokens,
        "samples": samples,
    }
    asked |= {"stop": texts_of("stop", stop) or None, "guidance_scale": sampling.get("guidance_scale")}
    for name, kinds in _ONLY_FOR.items():
        if asked[name] is not None and kind not in kinds:
            problem = f"{name} applies to {' and '.join(kinds)}, not to {kind}"
            raise InputError(problem, field=name, value=asked[name])
    heeded = {
        name: usual if asked[name] is None else asked[name]
        for name, usual in _USUAL.items()
        if kind in _ONLY_FOR[name]
    }
    given = {name: value for name, value in sampling.items() if value is not None}
    replace(SamplingConfig(), **given)  # refuses bad numbers before anything is read
    file = None if about is None else _checked(Path(about))
    with working_in(out, kind="generation"):
        begin_process(devices=devices)
        folder = ModelFolder.open(model)
        world = load_opened(folder, devices=devices, weights=weights)
        default = getattr(world.sampling, kind)
        used = to_json(replace(default, **given)) | {"kind": kind, "prompt": prompt, "weights": weights}
        used |= heeded
        parents = {"model": parent(model, folder.fingerprint)}
        drawn, written = None, list[Completion]()
        if kind == "text":
            written = world.completions(prompt, **heeded, **given)
        elif kind == "answer":
            written = world.answers(prompt, **_shown(file), **heeded, **given)
        else:
            drawn = world.draw(prompt, **heeded, **given)
        claim(out, Origin(kind="generation", configuration=used, parents=parents))
        if drawn is None:
            made, more = written[0].text, {"completions": [_account(each) for each in written]}
        else:
            path, more = out / ("video.mp4" if kind == "video" else "image.png"), {}
            write_frames(path, drawn, frames_per_second=world.watching.frames_per_second)
            made = str(path)
        about_file = None if about is None else str(Path(about).resolve())
        write_json_atomic(out / "output.json", used | {"about": about_file, "output": made} | more)
    return made


def write_frames(
    path: Path, frames: UInt8[np.ndarray, "frames side side 3"], *, frames_per_second: float
) -> None:
    """Write frames as an MP4 or, where the name ends in .png, the first as an image, large enough to see."""
    scale = max(1, _WATCHABLE_PIXELS // frames.shape[1])
    if path.suffix == ".png":
        write_image(path, frames[0], scale=scale)
    else:
        write_video(path, frames, frames_per_second=frames_per_second, scale=scale)


def _account(completion: Completion) -> dict[str, Any]:
    return {
        "text": completion.text,
        "tokens": completion.tokens.tolist(),
        "logprobs": completion.logprobs.tolist(),
        "finish": completion.finish,
    }


def _shown(file: Path | None) -> dict[str, Path]:
    """Return a file as the argument of `World.answers` that takes its kind."""
    if file is None:
        return {}
    if file.suffix.lower() in TEXT_SUFFIXES:
        return {"document": file}
    return {"video" if media_format(file) == "video" else "image": file}


def _checked(about: Path) -> Path:
    """Return the file that a question is about, or refuse what is no file."""
    if not about.is_file():
        reason = "is a folder" if about.is_dir() else why_no_file(about) or "does not exist"
        raise InputError(f"{about} {reason}", field="about", value=about, path=about)
    return about
