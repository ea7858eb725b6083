"""How fast clips of 720p H.264 become frames of 256 pixels, 4 a second: beside decoding alone, and LWM's way.

    python benchmarks/decoding.py VIDEO --clips 100 --out benchmarks/results/decoding.json

VIDEO is one whose pictures the clips show, from another one on in each, every other clip mirrored. Each clip
is read in three ways in turn, in this process, before the next clip is:

* alone: PyAV decodes every frame with the threads that FFmpeg chooses, and nothing is made of them.
* ringworld: `stream_video`, as `prepare` reads.
* lwm: as `lwm/vision_chat.py` reads (LargeWorldModel/LWM), with as many frames, spread over the whole clip:
  every frame is decoded, those chosen are resized by Pillow and become float32. Its decoder, decord, has had
  no release since 2021; PyAV takes its place, frame by frame, with the threads that FFmpeg chooses.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from ringworld.core.files import write_json_atomic
from ringworld.core.origin import machine, versions
from ringworld.vision.media import stream_video

RATE, RESOLUTION, SIZE, CLIP_RATE = 4.0, 256, (1280, 720), 30
OPTIONS = {"preset": "veryfast"}


def write_clips(video: Path, folder: Path, count: int) -> list[Path]:
    """Write the clips."""
    with av.open(str(video)) as container:
        pictures = [frame.to_image().resize(SIZE) for frame in container.decode(video=0)]
    paths = []
    for index in range(count):
        path = folder / f"{index:03d}.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=CLIP_RATE, options=OPTIONS)
            stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
            for at in range(len(pictures)):
                picture = pictures[(at + index) % len(pictures)]
                if index % 2:
                    picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
                container.mux(stream.encode(av.VideoFrame.from_image(picture)))
            container.mux(stream.encode(None))
        paths.append(path)
    return paths


def alone(path: Path) -> int:
    """Decode every frame, and return how many there are."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        return sum(1 for _ in container.decode(video=0))


def ringworld(path: Path) -> int:
    """Read a clip as `prepare` does, and return how many frames it gives."""
    return sum(1 for _ in stream_video(path, frames_per_second=RATE, resolution=RESOLUTION))


def lwm(path: Path) -> int:
    """Read as many frames as LWM does."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        most = int(-(-stream.frames * RATE // CLIP_RATE))
        chosen = set(np.linspace(0, stream.frames - 1, most, dtype=int).tolist())
        frames = [
            lwm_frame(frame.to_image()) for i, frame in enumerate(container.decode(stream)) if i in chosen
        ]
    return len(np.array(frames))


def lwm_frame(image: Image.Image) -> np.ndarray:
    """Do what `_process_frame` of LWM does."""
    width, height = image.size
    if width < height:
        size = RESOLUTION, int(RESOLUTION * height / width)
    else:
        size = int(RESOLUTION * width / height), RESOLUTION
    left, top = ((side - RESOLUTION) / 2 for side in size)
    middle = image.resize(size).crop((left, top, left + RESOLUTION, top + RESOLUTION))
    return np.array(middle, dtype=np.float32) / 127.5 - 1


WAYS: dict[str, Callable[[Path], int]] = {"alone": alone, "ringworld": ringworld, "lwm": lwm}


def main() -> None:
    """Measure, and print the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    seconds, made = dict.fromkeys(WAYS, 0.0), dict.fromkeys(WAYS, 0)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_clips(asked.video, Path(folder), asked.clips)
        for way in WAYS.values():
            way(paths[0])  # which imports what is imported late
        names = [*WAYS]
        for index, path in enumerate(paths):
            for name in names[index % 3 :] + names[: index % 3]:
                begun = time.perf_counter()
                made[name] += WAYS[name](path)
                seconds[name] += time.perf_counter() - begun
    rates = {name: made["alone"] / spent for name, spent in seconds.items()}
    result: dict[str, Any] = {
        "command": f"python benchmarks/decoding.py VIDEO --clips {asked.clips}",
        "machine": machine(),
        "versions": versions("av", "pillow", "numpy"),
        "clips": {"count": asked.clips, "frames": made["alone"], "size": SIZE, "rate": CLIP_RATE} | OPTIONS,
        "frames_made": made,
        "frames_of_the_clips_per_second": rates,
        "ringworld_over_alone": rates["ringworld"] / rates["alone"],
        "ringworld_over_lwm": rates["ringworld"] / rates["lwm"],
    }
    print(json.dumps(result, indent=2))
    if asked.out:
        write_json_atomic(asked.out, result)


if __name__ == "__main__":
    main()
