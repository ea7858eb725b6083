"""What a trained model makes of files that it never saw: videos, images, answers, texts."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from ringworld.cli.jobs.generation import save_frames
from ringworld.core.config import read_as, to_json
from ringworld.core.errors import InputError
from ringworld.core.files import write_bytes_atomic, write_json_atomic
from ringworld.data.frames import read_spread
from ringworld.data.quarantine import Quarantined, quarantine
from ringworld.data.read_text import read_text
from ringworld.data.sources import Sidecar, Source, read_sidecar
from ringworld.evaluation import plots
from ringworld.evaluation.metrics import (
    AnsweredQuestion,
    Continuation,
    GeneratedImage,
    GeneratedVideo,
    Reconstruction,
)
from ringworld.inference.engine import Engine, Question
from ringworld.presets import RunConfig
from ringworld.text import chat
from ringworld.vision.frame_tokenizer import FrameTokenizer

DEMONSTRATIONS_FILE = "demonstrations.json"
_VIDEOS, _IMAGES, _TEXTS, _RECONSTRUCTED = 6, 6, 3, 12
_ABOUT_PICTURES, _ABOUT_TEXTS = 48, 16
_STRIP_PIXELS = 96
_PROMPT_TOKENS, _CONTINUED_TOKENS, _ANSWER_TOKENS = 16, 48, 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Demonstrations:
    """What is shown of one model; files are relative to the folder of the run."""

    reconstructions: tuple[Reconstruction, ...]
    videos: tuple[GeneratedVideo, ...]
    images: tuple[GeneratedImage, ...]
    questions: tuple[AnsweredQuestion, ...]
    continuations: tuple[Continuation, ...]


def demonstrate(
    engine: Engine,
    frames: FrameTokenizer,
    run: RunConfig,
    *,
    sources: Sequence[Source],
    root: Path,
    folder: Path,
) -> Demonstrations:
    """Make everything that the report shows, once; a second call reads what the first wrote.

    Args:
        engine: the trained model.
        frames: its frame tokenizer.
        run: the configuration.
        sources: the user's files of all splits; held-out ones alone are used.
        root: folder of the run, to which file names are relative.
        folder: where pictures and videos go, below `root`.
    """
    path = folder / DEMONSTRATIONS_FILE
    if path.exists():
        return read_as(Demonstrations, path)
    seen = [one for source in sources if source.split == "held_out" and (one := _read(source, run))]
    captions = _captions_trained(sources)
    pictures = [one for one in seen if one.frames is not None]
    clips = [one for one in pictures if one.kind == "video"]
    texts = [one for one in seen if one.text]
    shown = Demonstrations(
        reconstructions=_reconstructions(frames, pictures, root=root, folder=folder),
        videos=_videos(engine, run, clips, trained=captions, root=root, folder=folder),
        images=_images(engine, run, pictures, root=root, folder=folder),
        questions=(
            *_answers(engine, pictures, each=2, most=_ABOUT_PICTURES),
            *_answers(engine, texts, each=1, most=_ABOUT_TEXTS),
        ),
        continuations=_continuations(engine, run, texts),
    )
    write_json_atomic(path, to_json(shown))
    return shown


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Seen:
    """One held-out file, read whole."""

    name: str
    kind: Literal["video", "image", "text"]
    sidecar: Sidecar
    frames: UInt8[np.ndarray, "frames side side 3"] | None
    text: str | None

    @property
    def caption(self) -> str | None:
        return self.sidecar.caption


def _read(source: Source, run: RunConfig) -> _Seen | None:
    """Read a file and what stands beside it, or return None where preparation had to set it aside."""
    try:
        sidecar, frames, text = read_sidecar(source), None, None
        if source.format in ("video", "image"):
            frames = read_spread(
                source,
                most_frames=run.prepare.max_frames,
                frames_per_second=run.prepare.frames_per_second,
                resolution=run.frames.resolution,
            )
        elif source.format == "text":
            text = read_text(source.path, max_bytes=run.prepare.max_text_bytes)
    except (InputError, OSError):
        return None
    kind = "text" if source.format == "lines" else source.format
    return _Seen(name=source.relative, kind=kind, sidecar=sidecar, frames=frames, text=text)


def _captions_trained(sources: Sequence[Source]) -> frozenset[str]:
    problems: list[Quarantined] = []
    captions = set()
    for source in sources:
        if source.split == "train" and source.format in ("video", "image"):
            with quarantine(source.relative, into=problems):
                captions.add(read_sidecar(source).caption)
    return frozenset(captions - {None})


def _reconstructions(
    frames: FrameTokenizer, pictures: Sequence[_Seen], *, root: Path, folder: Path
) -> tuple[Reconstruction, ...]:
    shown = pictures[:_RECONSTRUCTED]
    middles = [one.frames[len(one.frames) // 2] for one in shown if one.frames is not None]
    if not middles:
        return ()
    originals = np.stack(middles)
    file = folder / "reconstructions.png"
    _write_strip(file, [originals, frames.decode(frames.encode(originals))])
    caption = "Held-out frames, and below each what its codes give back."
    return (Reconstruction(file=str(file.relative_to(root)), caption=caption),)


def _write_strip(file: Path, rows: Sequence[UInt8[np.ndarray, "_ side side 3"]]) -> None:
    write_bytes_atomic(file, plots.frame_strip(rows, scale=max(1, _STRIP_PIXELS // rows[0].shape[1])))


def _captioned(
    engine: Engine, clips: Sequence[_Seen], *, kind: Literal["image", "video"], frames: int
) -> dict[str, np.ndarray]:
    """Return one clip for each caption that leaves room for so many frames."""
    room = engine.limits.max_context_tokens - frames * engine.vocabulary.frame_tokens
    return {
        one.caption: one.frames
        for one in clips
        if one.caption is not None
        and one.frames is not None
        and len(engine.encode(chat.generation_prompt(one.caption, kind=kind))) <= room
    }


def _videos(
    engine: Engine,
    run: RunConfig,
    clips: Sequence[_Seen],
    *,
    trained: frozenset[str],
    root: Path,
    folder: Path,
) -> tuple[GeneratedVideo, ...]:
    length = run.prepare.max_frames
    chosen = list(_captioned(engine, clips, kind="video", frames=length).items())[:_VIDEOS]
    if not chosen:
        return ()
    started = time.monotonic()
    captions = [caption for caption, _ in chosen]
    drawn = engine.generate_frames(captions, frames=length, sampling=run.video_sampling)
    seconds = (time.monotonic() - started) / len(chosen)
    rows = [row for (_, clip), made in zip(chosen, drawn) for row in (made, clip)]
    _write_strip(folder / "videos.png", rows)
    videos = []
    for index, ((caption, clip), made) in enumerate(zip(chosen, drawn)):
        generated, real = (folder / f"video-{index}-{name}.mp4" for name in ("generated", "real"))
        save_frames(generated, made, run)
        save_frames(real, clip, run)
        videos.append(
            GeneratedVideo(
                caption=caption,
                generated=str(generated.relative_to(root)),
                real=str(real.relative_to(root)),
                caption_trained=caption in trained,
                seconds=seconds,
            )
        )
    return tuple(videos)


def _images(
    engine: Engine, run: RunConfig, pictures: Sequence[_Seen], *, root: Path, folder: Path
) -> tuple[GeneratedImage, ...]:
    captions = list(_captioned(engine, pictures, kind="image", frames=1))[:_IMAGES]
    if not captions:
        return ()
    images = []
    for index, made in enumerate(engine.generate_frames(captions, frames=1, sampling=run.image_sampling)):
        file = folder / f"image-{index}.png"
        save_frames(file, made, run)
        images.append(GeneratedImage(caption=captions[index], file=str(file.relative_to(root))))
    return tuple(images)


def _answers(engine: Engine, seen: Sequence[_Seen], *, each: int, most: int) -> tuple[AnsweredQuestion, ...]:
    """Answer a few of the questions about each file that fit into the context.

    From one file to the next they are other ones, so that all that is asked about such files has its turn.
    """
    room = engine.limits.max_context_tokens - _ANSWER_TOKENS
    asked = []
    for index, one in enumerate(seen):
        listed = one.sidecar.questions
        for turn in range(min(each, len(listed))):
            about = listed[(each * index + turn) % len(listed)]
            question = Question(
                text=about.question, frames=one.frames, document=one.text, answers=about.answers
            )
            asked.append((one, about.answer, question))
    asked = [one for one in asked if engine.question_tokens(one[2]) <= room][:most]
    if not asked:
        return ()
    answers = engine.answer([question for _, _, question in asked], max_new_tokens=_ANSWER_TOKENS)
    return tuple(
        AnsweredQuestion(
            about=one.name,
            kind=one.kind,
            question=question.text,
            answer=answer,
            truth=truth,
            correct=_plain(answer) == _plain(truth),
        )
        for (one, truth, question), answer in zip(asked, answers)
    )


def _continuations(engine: Engine, run: RunConfig, texts: Sequence[_Seen]) -> tuple[Continuation, ...]:
    begun = [engine.tokenizer.encode(one.text or "")[:_PROMPT_TOKENS] for one in texts[-_TEXTS:]]
    prompts = [engine.tokenizer.decode(ids) for ids in begun]
    if not prompts:
        return ()
    written = engine.complete(prompts, max_new_tokens=_CONTINUED_TOKENS, sampling=run.text_sampling)
    return tuple(Continuation(prompt=prompt, text=text) for prompt, text in zip(prompts, written))


def _plain(answer: str) -> str:
    return answer.strip().rstrip(".").casefold()
