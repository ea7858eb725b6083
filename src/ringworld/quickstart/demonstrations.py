"""What a trained model makes of files that it never saw: videos, images, answers, texts."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from ringworld.api.generate import write_frames
from ringworld.core.config import read_as, to_json
from ringworld.core.files import write_bytes_atomic, write_json_atomic
from ringworld.data.frames import read_spread
from ringworld.data.quarantine import Quarantined, quarantine
from ringworld.data.samples import MediaFile, Sample
from ringworld.data.sources import Source
from ringworld.inference.config import GREEDY
from ringworld.inference.world import World
from ringworld.presets import RunConfig
from ringworld.report import plots
from ringworld.report.schema import AnsweredQuestion, ContinuedText, GeneratedVideo, Picture
from ringworld.vision.frame_tokenizer import FrameTokenizer

DEMONSTRATIONS_FILE = "demonstrations.json"
_VIDEOS, _IMAGES, _TEXTS, _RECONSTRUCTED = 6, 6, 3, 12
_ABOUT_PICTURES, _ABOUT_TEXTS = 48, 16
_STRIP_PIXELS = 96
_PROMPT_TOKENS, _CONTINUED_TOKENS, _ANSWER_TOKENS = 16, 48, 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Demonstrations:
    """What is shown of one model; files are relative to the folder of the run."""

    reconstructions: tuple[Picture, ...]
    videos: tuple[GeneratedVideo, ...]
    images: tuple[Picture, ...]
    questions: tuple[AnsweredQuestion, ...]
    continuations: tuple[ContinuedText, ...]


def demonstrate(world: World, run: RunConfig, *, sources: Sequence[Source], folder: Path) -> Demonstrations:
    """Make everything that the report shows, once; a second call reads what the first wrote.

    Of the sources, those held out are used. Pictures and videos go to `folder`, and their names are relative
    to the folder above it.
    """
    path = folder / DEMONSTRATIONS_FILE
    if path.exists():
        return read_as(Demonstrations, path)
    seen = [one for source in sources if source.split == "held_out" and (one := _read(source, run))]
    captions = _captions_trained(sources, run)
    pictures = [one for one in seen if one.frames is not None]
    clips = [one for one in pictures if one.kind == "video"]
    texts = [one for one in seen if one.sample.text]
    frames, learns_texts = world.prompts.frame_tokenizer, "text" in run.training.stages[-1].mixture
    shown = Demonstrations(
        reconstructions=_reconstructions(frames, pictures, folder=folder) if frames else (),
        videos=_videos(world, run, clips, trained=captions, folder=folder) if frames else (),
        images=_images(world, run, pictures, folder=folder) if frames else (),
        questions=(
            *_answers(world, pictures, each=2, most=_ABOUT_PICTURES),
            *_answers(world, texts, each=1, most=_ABOUT_TEXTS),
        ),
        continuations=_continuations(world, texts) if learns_texts else (),
    )
    write_json_atomic(path, to_json(shown))
    return shown


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Seen:
    """One held-out file, read whole."""

    kind: Literal["video", "image", "text"]
    sample: Sample
    frames: UInt8[np.ndarray, "frames side side 3"] | None = None


def _read(source: Source, run: RunConfig) -> _Seen | None:
    """Read a file of one sample, or return None where preparation had to quarantine it."""
    problems: list[Quarantined] = []
    if source.reader.holds != "one":
        return None
    with quarantine(source.relative, into=problems):
        sample = next(source.reader.read(source, config=run.prepare, quarantined=problems))
        if isinstance(sample.clip, MediaFile):
            assert run.frame_tokenizer is not None
            frames = read_spread(sample.clip, config=run.prepare, resolution=run.frame_tokenizer.resolution)
            return _Seen(kind=sample.clip.form, sample=sample, frames=frames)
        return _Seen(kind="text", sample=sample)
    return None


def _captions_trained(sources: Sequence[Source], run: RunConfig) -> frozenset[str]:
    problems: list[Quarantined] = []
    captions = set()
    for source in sources:
        if source.split == "train" and source.reader.shows == "pictures":
            with quarantine(source.relative, into=problems):
                read = source.reader.read(source, config=run.prepare, quarantined=problems)
                captions |= {sample.caption for sample in read}
    return frozenset(captions - {None})


def _reconstructions(
    tokenizer: FrameTokenizer, pictures: Sequence[_Seen], *, folder: Path
) -> tuple[Picture, ...]:
    shown = pictures[:_RECONSTRUCTED]
    middles = [one.frames[len(one.frames) // 2] for one in shown if one.frames is not None]
    if not middles:
        return ()
    originals = np.stack(middles)
    file = folder / "reconstructions.png"
    _write_strip(file, [originals, tokenizer.decode(tokenizer.encode(originals))])
    caption = "Held-out frames, and below each what its codes give back."
    return (Picture(file=str(file.relative_to(folder.parent)), caption=caption),)


def _write_strip(file: Path, rows: Sequence[UInt8[np.ndarray, "_ side side 3"]]) -> None:
    write_bytes_atomic(file, plots.frame_strip(rows, scale=max(1, _STRIP_PIXELS // rows[0].shape[1])))


def _captioned(world: World, clips: Sequence[_Seen], *, frames: int) -> dict[str, np.ndarray]:
    """Return one clip for each caption that leaves room for so many frames."""
    room = world.generator.limits.max_context_tokens - frames * world.prompts.vocabulary.frame_tokens
    return {
        caption: one.frames
        for one in clips
        if (caption := one.sample.caption) is not None
        and one.frames is not None
        and len(world.prompts.drawing(caption, frames=frames)) <= room
    }


def _videos(
    world: World, run: RunConfig, clips: Sequence[_Seen], *, trained: frozenset[str], folder: Path
) -> tuple[GeneratedVideo, ...]:
    length = run.prepare.max_frames
    chosen = list(_captioned(world, clips, frames=length).items())[:_VIDEOS]
    if not chosen:
        return ()
    started = time.monotonic()
    captions = [caption for caption, _ in chosen]
    drawn = world.draw(captions, frames=length)
    seconds = (time.monotonic() - started) / len(chosen)
    rows = [row for (_, clip), made in zip(chosen, drawn) for row in (made, clip)]
    _write_strip(folder / "videos.png", rows)
    videos = []
    for index, ((caption, clip), made) in enumerate(zip(chosen, drawn)):
        generated, real = (folder / f"video-{index}-{name}.mp4" for name in ("generated", "real"))
        write_frames(generated, made, frames_per_second=run.prepare.frames_per_second)
        write_frames(real, clip, frames_per_second=run.prepare.frames_per_second)
        videos.append(
            GeneratedVideo(
                caption=caption,
                generated=str(generated.relative_to(folder.parent)),
                real=str(real.relative_to(folder.parent)),
                caption_trained=caption in trained,
                seconds=seconds,
            )
        )
    return tuple(videos)


def _images(world: World, run: RunConfig, pictures: Sequence[_Seen], *, folder: Path) -> tuple[Picture, ...]:
    captions = list(_captioned(world, pictures, frames=1))[:_IMAGES]
    if not captions:
        return ()
    images = []
    for index, made in enumerate(world.draw(captions)):
        file = folder / f"image-{index}.png"
        write_frames(file, made, frames_per_second=run.prepare.frames_per_second)
        images.append(Picture(caption=captions[index], file=str(file.relative_to(folder.parent))))
    return tuple(images)


def _answers(world: World, seen: Sequence[_Seen], *, each: int, most: int) -> tuple[AnsweredQuestion, ...]:
    """Answer a few of the questions about each file that fit into the context.

    They differ from one file to the next, so that every question that such files have is asked of some.
    """
    room = world.generator.limits.max_context_tokens - _ANSWER_TOKENS
    asked = []
    for index, one in enumerate(seen):
        listed = one.sample.questions
        for number in range(min(each, len(listed))):
            about = listed[(each * index + number) % len(listed)]
            prompt = world.prompts.question(
                about.question, frames=one.frames, document=one.sample.text, answers=about.answers
            )
            if len(prompt) <= room and len(asked) < most:
                asked.append((one, about, prompt))
    prompts = [prompt for _, _, prompt in asked]
    replies = world.reply(prompts, max_new_tokens=_ANSWER_TOKENS, sampling=GREEDY)
    answers = [reply.text.strip() for reply in replies]
    return tuple(
        AnsweredQuestion(
            about=one.sample.key,
            kind=one.kind,
            question=about.question,
            answer=answer,
            truth=about.answer,
            correct=_plain(answer) == _plain(about.answer),
        )
        for (one, about, _), answer in zip(asked, answers)
    )


def _continuations(world: World, texts: Sequence[_Seen]) -> tuple[ContinuedText, ...]:
    tokenizer = world.prompts.tokenizer
    begun = [tokenizer.encode(one.sample.text or "")[:_PROMPT_TOKENS] for one in texts[-_TEXTS:]]
    prompts = [tokenizer.decode(ids) for ids in begun]
    written = world.complete(prompts, max_new_tokens=_CONTINUED_TOKENS)
    return tuple(ContinuedText(prompt=prompt, text=text) for prompt, text in zip(prompts, written))


def _plain(answer: str) -> str:
    return answer.strip().rstrip(".").casefold()
