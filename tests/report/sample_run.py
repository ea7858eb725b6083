"""A whole run's metrics with made-up numbers and real media files, for the report's tests."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ringworld.core.results import Evaluation, Result
from ringworld.report import plots
from ringworld.report.schema import (
    AnsweredQuestion,
    ContinuedText,
    FrameTokenizerMetrics,
    GeneratedVideo,
    InputFile,
    LossPoint,
    Metrics,
    Phase,
    Picture,
    StageMetrics,
    TextTokenizerMetrics,
    UnusableFile,
)
from ringworld.vision.write_media import write_image, write_video

CAPTIONS = (
    "A red circle moves to the right.",
    "A blue square moves up, then a green triangle moves down.",
    "A yellow triangle moves to the left.",
)
STAGES = (("256", 256, 1e4), ("512", 512, 2e4), ("1K", 1024, 5e4))
EDGES = (0, 16, 64, 256, 512, 1024)
DEPTHS = (0.0, 25.0, 50.0, 75.0, 100.0)


def moving_square(*, color: tuple[int, int, int], frames: int = 8, side: int = 32) -> np.ndarray:
    video = np.full((frames, side, side, 3), 24, np.uint8)
    for i in range(frames):
        video[i, 10:20, 2 + 2 * i : 12 + 2 * i] = color
    return video


def make_run(out: Path) -> Metrics:
    colors = ((220, 60, 50), (60, 90, 220), (230, 200, 60))
    for i, color in enumerate(colors):
        video = moving_square(color=color)
        write_video(out / f"generated{i}.mp4", video, frames_per_second=4, scale=4)
        write_video(out / f"real{i}.mp4", video, frames_per_second=4, scale=4)
        write_image(out / f"image{i}.png", video[0], scale=4)
    originals = np.concatenate([moving_square(color=color, frames=4) for color in colors])
    strip = plots.frame_strip([originals, originals // 2 + 20], scale=2)
    (out / "reconstructions.png").write_bytes(strip)
    return Metrics(
        title="A world model in twelve minutes",
        command="ringworld quickstart --out runs/first --devices 2",
        summary="40 videos and 60 texts became tokens; a model of 6.2 million parameters was trained on "
        "them with ring attention over 2 simulated devices, in 3 stages up to 1,024 tokens.",
        facts={
            "preset": "quickstart",
            "mesh": "ring 2, zigzag layout",
            "parameters": "6,204,416",
            "sampling": "temperature 1, top k 64, guidance 3, seed 0",
        },
        versions={"ringworld": "0.1.0", "jax": "0.10.2"},
        inputs=(
            InputFile(name="videos/clip000.mp4", kind="video", files=1, bytes=14322, examples=4, tokens=812),
            InputFile(name="texts/letter003.txt", kind="text", files=2, bytes=2310, examples=2, tokens=1544),
        ),
        quarantined=(
            UnusableFile(name="videos/<b>.mp4", reason="a JPEG image named .mp4; rename it to .jpg"),
            UnusableFile(name="videos/song.mp4", reason="no video stream, only audio"),
        ),
        questions_left_out=3,
        text_tokenizer=TextTokenizerMetrics(
            vocabulary_size=1024, bytes_per_token=2.91, judged_on="text held out"
        ),
        frame_tokenizer=FrameTokenizerMetrics(
            resolution=32,
            codes_per_frame=16,
            codebook_size=128,
            codebook_used=97,
            held_out_frames=64,
            held_out_of="files held out",
            psnr_db=27.384,
            resembling_db=30.0,
            unlike_frames=12,
            unlike_psnr_db=25.118,
            nearest_psnr_db=17.2,
            steps=600,
        ),
        stages=tuple(
            StageMetrics(
                name=name,
                context_tokens=context,
                rope_base=base,
                steps=120,
                tokens=120 * 8 * 256,
                seconds=61.5,
                fill=0.97,
                examples=4410,
                ring_efficiency=0.93,
                model_flops_per_second=1.234e9 * context,
                left_out={"video": 4321 // context} if context < 1024 else {},
            )
            for name, context, base in STAGES
        ),
        losses=tuple(_loss(step) for step in range(1, 361)),
        evaluations=tuple(
            Evaluation(
                label={"when": when, "stage": name},
                results=(*_needles(index, when, 1), *_needles(index, when, 4), *_held_out(index, when)),
            )
            for index, (name, _, _) in enumerate(STAGES)
            for when in ("before", "after")
        ),
        extended=tuple(
            Evaluation(label={"when": when, "stage": "4K"}, results=(*_needles(2, when, 1),))
            for when in ("before", "after")
        ),
        reconstructions=(
            Picture(
                file="reconstructions.png", caption="Held-out frames above, their reconstructions below."
            ),
        ),
        videos=tuple(
            GeneratedVideo(
                caption=caption,
                generated=f"generated{i}.mp4",
                real=f"real{i}.mp4",
                caption_trained=i < 2,
                seconds=1.234,
            )
            for i, caption in enumerate(CAPTIONS)
        ),
        images=tuple(Picture(caption=caption, file=f"image{i}.png") for i, caption in enumerate(CAPTIONS)),
        questions=(
            AnsweredQuestion(
                about="clip007.mp4",
                kind="video",
                question="What color is the shape?",
                answer="red",
                truth="red",
                correct=True,
            ),
            AnsweredQuestion(
                about="clip008.mp4",
                kind="video",
                question="What color is the shape?",
                answer="blue",
                truth="green",
                correct=False,
            ),
            AnsweredQuestion(
                about="letter003.txt",
                kind="text",
                question="Where does <Ada> live?",
                answer="in Oslo & Rome, and so on and on",
                truth="in Lima",
                correct=False,
            ),
        ),
        continuations=(
            ContinuedText(prompt="The ferry left at noon", text=" and nobody waved. The lamps were lit."),
        ),
        phases=tuple(
            Phase(name=name, seconds=seconds, bytes=size)
            for name, seconds, size in (
                ("toy world", 8.2, 2_400_000),
                ("tokenizers", 141.0, 5_100_000),
                ("preparation", 12.9, 830_000),
                ("training", 402.7, 74_800_000),
                ("evaluation", 66.0, 120_000),
            )
        ),
    )


def _loss(step: int) -> LossPoint:
    noise = 0.15 * math.sin(37 * step) + 0.1 * math.sin(11.3 * step)
    return LossPoint(
        step=step,
        stage=STAGES[(step - 1) // 120][0],
        text_loss=2.1 + 4.4 * math.exp(-step / 60) + noise,
        vision_loss=0.9 + 3.9 * math.exp(-step / 40) + noise,
    )


def _needles(index: int, when: str, many: int) -> Iterator[Result]:
    for i, (_, context, _) in enumerate(STAGES):
        for j, depth in enumerate(DEPTHS):
            cell = {
                "needles": many,
                "asked": (many + 1) // 2,
                "context_tokens": context,
                "depth_percent": depth,
            }
            share = min(1.0, 0.25 * ((index + i + j + (when == "after")) % 5))
            yield Result(task="needles", metric="found", cell=cell, value=share, count=4)


def _held_out(index: int, when: str) -> Iterator[Result]:
    base = 3.0 - 0.5 * index - 0.4 * (when == "after")

    def result(metric: str, value: float, count: int, **where: Any) -> Result:
        cell = {"context_tokens": STAGES[-1][1], **where}
        return Result(task="held_out", metric=metric, cell=cell, value=value, count=count)

    yield result("text_loss", base + 0.5, 2048)
    yield result("vision_loss", base - 0.1, 1024)
    yield result("vision_loss", base - 0.1, 1024, kind="caption_video")
    yield result("text_loss", base + 0.5, 2048, kind="text_qa")
    for i, (start, stop) in enumerate(zip(EDGES[:-1], EDGES[1:])):
        bounds = {"start": start, "stop": stop}
        yield result("text_loss", base + 2 / (i + 1), 512 if i else 4, **bounds)
        if i:
            yield result("vision_loss", base - 0.5 + 1 / (i + 1), 256, **bounds)
    yield result("too_long", 7.0, 7, kind="video_qa")
