"""What a trained model makes of files that it never saw: videos, images, answers, texts."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ringworld.cli.jobs.generation import save_frames
from ringworld.core.config import from_json, to_json
from ringworld.core.errors import InputError
from ringworld.core.files import read_json, write_bytes_atomic, write_json_atomic
from ringworld.data.frames import read_spread
from ringworld.data.read_text import read_text
from ringworld.data.sources import Source, read_sidecar
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
from ringworld.vision.frame_tokenizer import FrameTokenizer

DEMONSTRATIONS_FILE = "demonstrations.json"
_VIDEOS, _IMAGES, _QUESTIONS, _TEXTS, _RECONSTRUCTED = 6, 6, 8, 3, 8
_PROMPT_WORDS, _CONTINUED_TOKENS, _ANSWER_TOKENS = 12, 48, 24


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
        return from_json(Demonstrations, read_json(path), where=str(path))
    held_out = [source for source in sources if source.split == "held_out"]
    pictured = [source for source in held_out if source.format in ("video", "image")]
    clips = {source: clip for source in pictured if (clip := _frames(source, run)) is not None}
    shown = Demonstrations(
        reconstructions=_reconstructions(frames, clips, root=root, folder=folder),
        videos=_videos(engine, run, clips, root=root, folder=folder),
        images=_images(engine, run, clips, root=root, folder=folder),
        questions=(*_video_questions(engine, clips), *_document_questions(engine, run, held_out)),
        continuations=_continuations(engine, run, held_out),
    )
    write_json_atomic(path, to_json(shown))
    return shown


def _frames(source: Source, run: RunConfig) -> np.ndarray | None:
    """Return the frames of a file, or None where preparation had to set it aside."""
    try:
        return read_spread(
            source,
            most_frames=run.prepare.max_frames,
            frames_per_second=run.prepare.frames_per_second,
            resolution=run.frames.resolution,
        )
    except InputError:
        return None


def _captioned(clips: dict[Source, np.ndarray]) -> list[tuple[str, np.ndarray]]:
    """Return one clip for each caption."""
    found = {read_sidecar(source).caption: clip for source, clip in clips.items()}
    return [(caption, clip) for caption, clip in found.items() if caption is not None]


def _reconstructions(
    frames: FrameTokenizer, clips: dict[Source, np.ndarray], *, root: Path, folder: Path
) -> tuple[Reconstruction, ...]:
    chosen = list(clips.items())[:_RECONSTRUCTED]
    originals = np.stack([clip[len(clip) // 2] for _, clip in chosen])
    file = folder / "reconstructions.png"
    write_bytes_atomic(file, plots.frame_strip([originals, frames.decode(frames.encode(originals))]))
    caption = "Held-out frames, and below each what its codes give back."
    return (Reconstruction(file=str(file.relative_to(root)), caption=caption),)


def _videos(
    engine: Engine, run: RunConfig, clips: dict[Source, np.ndarray], *, root: Path, folder: Path
) -> tuple[GeneratedVideo, ...]:
    chosen = _captioned(clips)[:_VIDEOS]
    if not chosen:
        return ()
    started = time.monotonic()
    length = min(len(clip) for _, clip in chosen)
    drawn = engine.generate_frames(
        [caption for caption, _ in chosen], frames=length, sampling=run.vision_sampling
    )
    seconds = (time.monotonic() - started) / len(chosen)
    videos = []
    for index, ((caption, clip), made) in enumerate(zip(chosen, drawn)):
        generated, real = (folder / f"video-{index}-{name}.mp4" for name in ("generated", "real"))
        save_frames(generated, made, run)
        save_frames(real, clip[:length], run)
        videos.append(
            GeneratedVideo(
                caption=caption,
                generated=str(generated.relative_to(root)),
                real=str(real.relative_to(root)),
                seconds=seconds,
            )
        )
    return tuple(videos)


def _images(
    engine: Engine, run: RunConfig, clips: dict[Source, np.ndarray], *, root: Path, folder: Path
) -> tuple[GeneratedImage, ...]:
    captions = [caption for caption, _ in _captioned(clips)][-_IMAGES:]
    if not captions:
        return ()
    images = []
    for index, made in enumerate(engine.generate_frames(captions, frames=1, sampling=run.vision_sampling)):
        file = folder / f"image-{index}.png"
        save_frames(file, made, run)
        images.append(GeneratedImage(caption=captions[index], file=str(file.relative_to(root))))
    return tuple(images)


def _video_questions(engine: Engine, clips: dict[Source, np.ndarray]) -> tuple[AnsweredQuestion, ...]:
    asked = [
        (source.relative, question, Question(text=question.question, frames=clip))
        for source, clip in clips.items()
        for question in read_sidecar(source).questions
    ][:_QUESTIONS]
    return _answered(engine, asked)


def _document_questions(
    engine: Engine, run: RunConfig, held_out: Sequence[Source]
) -> tuple[AnsweredQuestion, ...]:
    asked = []
    for source, text in _texts(run, held_out):
        room = engine.limits.max_context_tokens // 2
        if len(engine.tokenizer.encode(text)) < room:
            asked += [
                (source.relative, question, Question(text=question.question, document=text))
                for question in read_sidecar(source).questions[:1]
            ]
    return _answered(engine, asked[:_QUESTIONS])


def _answered(engine: Engine, asked: Sequence[tuple]) -> tuple[AnsweredQuestion, ...]:
    answers = (
        engine.answer([question for _, _, question in asked], max_new_tokens=_ANSWER_TOKENS) if asked else []
    )
    return tuple(
        AnsweredQuestion(
            about=about,
            question=question.question,
            answer=answer,
            truth=question.answer,
            correct=_plain(answer) == _plain(question.answer),
        )
        for (about, question, _), answer in zip(asked, answers)
    )


def _continuations(engine: Engine, run: RunConfig, held_out: Sequence[Source]) -> tuple[Continuation, ...]:
    prompts = [" ".join(text.split()[:_PROMPT_WORDS]) for _, text in list(_texts(run, held_out))[-_TEXTS:]]
    if not prompts:
        return ()
    texts = engine.complete(prompts, max_new_tokens=_CONTINUED_TOKENS, sampling=run.text_sampling)
    return tuple(Continuation(prompt=prompt, text=text) for prompt, text in zip(prompts, texts))


def _texts(run: RunConfig, held_out: Sequence[Source]) -> list[tuple[Source, str]]:
    texts = []
    for source in held_out:
        if source.format == "text":
            try:
                texts.append((source, read_text(source.path, max_bytes=run.prepare.max_text_bytes)))
            except InputError:
                continue  # preparation has set it aside and said why
    return texts


def _plain(answer: str) -> str:
    return answer.strip().rstrip(".").casefold()
