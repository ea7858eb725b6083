"""What preparation withstands: kills, mutated inputs, and a video of an hour in little memory.

    python benchmarks/preparation.py INPUTS --kills 100 --mutants 500 --minutes 60 --out results.json

A part that is not asked for stays in the results as it was.
INPUTS is a folder of videos, images and texts. Frames are encoded by their brightness, so that what is
measured is all but the frame tokenizer.

* kills: `prepare` is killed with all its processes at so many random moments, by turns with one worker and
  two, and repeated; its files must be equal, byte for byte, to those of a run that was left alone.
* mutants: files of INPUTS, and JSON lines, Parquet, tars and manifests made of them, with bytes changed, cut,
  doubled or moved; none may end the run, none may take more than 20 s, and each must be used, a duplicate or
  in the quarantine with a reason. `--seed` draws others.
* minutes: a video of so many minutes is prepared; what counts is the peak of the process's memory.
"""

import argparse
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ringworld.core.files import read_jsonl
from ringworld.core.memory import peak_memory_bytes
from ringworld.core.origin import machine, versions
from ringworld.data import store
from ringworld.data.config import PrepareConfig
from ringworld.data.prepare import PrepareReport, prepare
from ringworld.data.readers.manifest import MANIFEST_NAME
from ringworld.text.tokenizer import TextTokenizer
from ringworld.text.vocabulary import Vocabulary
from ringworld.vision.write_media import write_video

CONFIG = PrepareConfig(files_per_shard=2, max_frames=16, document_tokens=2048, duplicates="near")


class Brightness:
    """A frame tokenizer without weights: 256 codes a frame, the brightness of each patch."""

    resolution = 256
    fingerprint = "brightness"

    def encode(self, frames: np.ndarray) -> np.ndarray:
        """Return 16 x 16 codes of each frame."""
        patches = frames.reshape(len(frames), 16, 16, 16, 16, 3).mean(axis=(2, 4, 5))
        return (patches // 4).astype(np.int32).reshape(len(frames), 256)


def run(inputs: Path, out: Path, *, workers: int, **options: Any) -> PrepareReport:
    """Prepare a folder of anything."""
    words = TextTokenizer.train(["the old man walks to the river"], vocab_size=300)
    return prepare(
        videos=(inputs,),
        texts=(inputs,),
        out=out,
        tokenizer=words,
        frame_tokenizer=Brightness(),
        vocabulary=Vocabulary(text_size=words.size, codes=64, codes_per_frame=256),
        config=CONFIG,
        workers=workers,
        **options,
    )


def contents(folder: Path) -> dict[str, bytes]:
    """Return what was prepared, besides the origin, which says by which command."""
    names = (store.MANIFEST_FILE, store.QUARANTINE_FILE, store.DUPLICATES_FILE)
    files = [*(folder / store.SHARDS_FOLDER).iterdir(), *(folder / name for name in names)]
    return {path.name: path.read_bytes() for path in files}


def kills(inputs: Path, points: int, *, seed: int) -> dict[str, Any]:
    """Kill so many runs, each at a random moment."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        seconds = []
        for workers in (1, 2):
            begun = time.monotonic()
            subprocess.run(part("work", inputs, folder / f"whole{workers}", workers), check=True)
            seconds.append(time.monotonic() - begun)
        expected = contents(folder / "whole1")
        equal = contents(folder / "whole2") == expected
        struck = rounds = 0
        while struck < points:
            out, workers = folder / f"killed{rounds}", 1 + rounds % 2
            while True:
                process = subprocess.Popen(part("work", inputs, out, workers), start_new_session=True)
                try:
                    process.wait(draw.uniform(0.2, 1.0) * seconds[workers - 1])
                    break
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    struck += 1
            equal = equal and contents(out) == expected
            rounds += 1
        return {"kills": struck, "runs_finished": rounds, "equal_bytes": equal, "files": len(expected)}


def mutants(inputs: Path, count: int, *, seed: int) -> dict[str, Any]:
    """Prepare so many damaged files at once."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder, out = Path(temporary) / "in", Path(temporary) / "out"
        originals = originals_of(inputs, Path(temporary) / "originals")
        formats = Counter[str]()
        names = set[str]()
        for index in range(count):
            path = originals[index % len(originals)]
            target = folder / f"{index:04d}{path.suffix}"
            if path.name == MANIFEST_NAME:
                target = folder / f"{index:04d}" / path.name
                shutil.copytree(path.parent, target.parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(mutated(path.read_bytes(), draw))
            formats[path.suffix] += 1
            names.add(target.relative_to(folder).parts[0])
        at: list[float] = []
        report = run(
            folder,
            out,
            workers=2,
            on_progress=lambda done: at.append(time.monotonic()),
        )
        duplicates = [row["path"].partition("/")[2] for row in read_jsonl(out / store.DUPLICATES_FILE)]
        used = set(map(mutant_of, store.ExampleStore(out).column("source")))
        refused = {mutant_of(one.path) for one in report.quarantined}
        return {
            "seed": seed,
            "mutants": dict(formats),
            "used_whole_or_in_part": len(used & names),
            "quarantined_whole_or_in_part": len(refused & names),
            "neither_used_nor_quarantined": sorted(names - used - refused - set(map(mutant_of, duplicates))),
            "without_a_reason": sum(not one.reason for one in report.quarantined),
            "ended_a_process": [one.path for one in report.quarantined if "ended the process" in one.reason],
            "longest_silence_seconds": round(float(max(np.diff(at))), 1),
        }


def mutant_of(key: str) -> str:
    """Return which mutant a file or a sample belongs to: of `0005/manifest.jsonl#2`, `0005`."""
    return key.partition("#")[0].partition("/")[0]


def originals_of(inputs: Path, folder: Path) -> list[Path]:
    """Return whole files of each format, of at most a megabyte."""
    folder.mkdir()
    found = [path for path in sorted(inputs.rglob("*")) if path.is_file() and path.stat().st_size < 2**20]
    picture = next(path for path in found if path.suffix in (".jpg", ".png"))
    talk = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Anna."}]
    records = [{"text": f"Document {i} of some words."} for i in range(20)] + [{"messages": talk}] * 5
    fields = {"fields": "[q],[vision],a", "q": "What?", "a": "It.", "vision": [3] * 256}
    lines = folder / "a.jsonl"
    lines.write_text("\n".join(map(json.dumps, [*records, fields])))
    table = folder / "a.parquet"
    pq.write_table(pa.Table.from_pylist([{"text": one.get("text")} for one in records]), table)
    said = folder / "set" / MANIFEST_NAME
    said.parent.mkdir()
    shutil.copy(picture, said.parent)
    said.write_text(json.dumps({"file": picture.name, "caption": "A picture."}))
    bundle = folder / "a.tar"
    with tarfile.open(bundle, "w") as tar:
        for name, content in (
            ("1.jpg", picture.read_bytes()),
            ("1.txt", b"A caption."),
            ("2.json", json.dumps({"messages": talk}).encode()),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return [*found, lines, table, said, bundle]


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Change, cut, double or move a part of some bytes."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 3, 30))):
        at, length = draw.randrange(len(changed) or 1), draw.choice((1, 8, 400))
        match draw.choice(("random", "zero", "cut", "double", "end")):
            case "random":
                changed[at : at + length] = draw.randbytes(len(changed[at : at + length]))
            case "zero":
                changed[at : at + length] = bytes(len(changed[at : at + length]))
            case "cut":
                del changed[at : at + length]
            case "double":
                changed[at:at] = changed[at : at + length]
            case "end":
                del changed[max(at, len(changed) // 2) :]
    return bytes(changed)


def long_video(minutes: int, *, seed: int) -> dict[str, Any]:
    """Prepare a video of so many minutes in a process of its own."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        draw = np.random.default_rng(seed)
        picture = draw.integers(0, 256, (90, 160, 3), np.uint8).repeat(2, 0).repeat(2, 1)
        (folder / "in").mkdir()
        write_video(
            folder / "in/long.mp4",
            np.broadcast_to(picture, (minutes * 60 * 4, *picture.shape)),
            frames_per_second=4.0,
        )
        found = {}
        for name, said in (("captioned", '{"caption": "Noise."}'), ("footage", "{}")):
            (folder / "in/long.json").write_text(said)
            ran = subprocess.run(
                part("measure", folder / "in", folder / name, 1), check=True, capture_output=True, text=True
            )
            found[name] = json.loads(ran.stdout.splitlines()[-1])
        return {"minutes": minutes, **found}


def measure(inputs: Path, out: Path) -> None:
    """Prepare, and print how long it took and what the process held at most, before and after."""
    before, begun = peak_memory_bytes(), time.monotonic()
    report = run(inputs, out, workers=1)
    made = {
        "seconds": round(time.monotonic() - begun, 1),
        "peak_bytes": peak_memory_bytes(),
        "peak_bytes_before": before,
        "tokens": sum(one.tokens for one in report.counts),
    }
    print(json.dumps(made))


def part(name: str, *arguments: object) -> list[str]:
    """Return the command that does a part in a process of its own."""
    return [sys.executable, __file__, "--part", name, *map(str, arguments)]


def main() -> None:
    """Measure what is asked for, and print it."""
    if sys.argv[1:2] == ["--part"]:
        name, inputs, out, workers = sys.argv[2:]
        if name == "work":
            run(Path(inputs), Path(out), workers=int(workers))
        else:
            measure(Path(inputs), Path(out))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("inputs", type=Path)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--mutants", type=int, default=0)
    parser.add_argument("--minutes", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    result: dict[str, Any] = json.loads(asked.out.read_text()) if asked.out and asked.out.exists() else {}
    result |= {
        "machine": machine(),
        "versions": versions("ringworld", "av", "pyarrow", "array-record", "numpy"),
    }
    parts: dict[str, Callable[[int], dict[str, Any]]] = {
        "kills": lambda count: kills(asked.inputs, count, seed=asked.seed),
        "mutants": lambda count: mutants(asked.inputs, count, seed=asked.seed),
        "minutes": lambda count: long_video(count, seed=asked.seed),
    }
    for name, measured in parts.items():
        if count := getattr(asked, name):
            options = f"--{name} {count}" + (f" --seed {asked.seed}" if asked.seed else "")
            command = f"python benchmarks/preparation.py INPUTS {options}"
            result["long_video" if name == "minutes" else name] = {"command": command, **measured(count)}
    text = json.dumps(result, indent=2) + "\n"
    print(text)
    if asked.out:
        asked.out.write_text(text)


if __name__ == "__main__":
    main()
