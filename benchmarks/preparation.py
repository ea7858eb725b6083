"""What preparation withstands: kills, mutated inputs, an hour of video in little memory; and rate of text.

    python benchmarks/preparation.py INPUTS --kills 100 --mutants 500 --minutes 60 --engines 2 --text 128 \
        --out new.json

A part that is not asked for stays in the results as it was.
INPUTS is a folder of videos, images and texts. But for kills and engines, frames are encoded by their
brightness, so that what is measured is all but the frame tokenizer.

* kills: the command `ringworld prepare` (preset `smoke`) is killed with all its processes at so many random
  moments, by turns with one worker and two, and repeated; all files of its folder must then be equal, byte
  for byte, to those of a run that was left alone, and no others there. `struck` counts what it was at.
* mutants: by turns files of INPUTS, and JSON lines, Parquet, tars and manifests made of them, with bytes
  changed, cut, doubled or moved, and hostile ones that keep to the grammar of their format
  (`hostile_files.py`); none may end the run, none may take more than 20 s, and each must be used, a duplicate
  or in the quarantine with a reason. One process at a time reads them, as after a run that a file ended, so
  that the time from one file to the next in a phase is that of one file. `--seed` draws others.
* minutes: a video of 720p of so many minutes is prepared; what counts is the peak of the process's memory.
* engines: the command prepares INPUTS and a toy world by so many processes of the pool, and of Ray's
  (`pip install ray`); all files of its folders must be equal, byte for byte, with no shard failed on Ray.
* text: texts of so many megabytes, drawn from the paragraphs of INPUTS, are prepared by one process and by
  two; the time is that of all of it, but for Python's imports in the first process.
"""

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
from brightness import Brightness
from hostile_files import GRAMMARS, mutated, originals_of, picture_of

from ringworld.artifacts.examples_folder import REPORT_FILE
from ringworld.core.files import LOCK_FILE, read_jsonl
from ringworld.core.memory import peak_memory_bytes
from ringworld.core.origin import ORIGIN_FILE, machine, versions
from ringworld.data import store
from ringworld.data.config import PrepareConfig
from ringworld.data.prepare import prepare
from ringworld.data.prepare_report import PrepareReport
from ringworld.data.readers.manifest import MANIFEST_NAME
from ringworld.quickstart.config import ToyWorldConfig
from ringworld.quickstart.toy_world import render_toy_world
from ringworld.text.tokenizer import TextTokenizer
from ringworld.text.vocabulary import Vocabulary

TEXT_FILES, TEXT_VOCABULARY = 4, 32_000
OF_THE_RUN = ("seconds", "shards_made", "failed_on_ray")
"""What a report says of the run, and not of the examples."""
QUIET: dict[str, Any] = {"check": True, "stdout": subprocess.DEVNULL}
MARK = ".reading"
"""What stands in a folder of examples while files are read, and after a run that a file ended."""
KILLED = (
    "--prepare.files-per-shard",
    "2",
    "--prepare.duplicates",
    "near",
    "--prepare.document-tokens",
    "2048",
)
CONFIG = PrepareConfig(
    files_per_shard=2, bytes_per_shard=2**12, max_frames=16, document_tokens=2048, duplicates="near"
)


def run(inputs: Path, out: Path, *, workers: int, **options: Any) -> PrepareReport:
    """Prepare a folder of anything."""
    words = TextTokenizer.train(["the old man walks to the river"], vocab_size=300)
    return prepare(
        videos=(inputs,),
        texts=(inputs,),
        out=out,
        tokenizer=words,
        frame_tokenizer=Brightness(patches=16, patch_pixels=16),
        vocabulary=Vocabulary(text_size=words.size, codes=64, codes_per_frame=256),
        config=CONFIG,
        workers=workers,
        **options,
    )


def ringworld(*arguments: object) -> list[str]:
    """Return a command of the command line."""
    return [sys.executable, "-m", "ringworld", *map(str, arguments)]


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder of examples, but what tells of the run and not of the examples."""
    files = (
        path for path in folder.rglob("*") if path.is_file() and path.name not in (LOCK_FILE, ORIGIN_FILE)
    )
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    report = json.loads(found.pop(REPORT_FILE))
    told = {name: value for name, value in report.items() if name not in OF_THE_RUN}
    return {**found, REPORT_FILE: json.dumps(told).encode()}


def struck_at(out: Path, *, begun: float) -> str:
    """Return what a run that began at this moment was at when it was killed, as its files show."""

    def is_new(path: Path) -> bool:
        return path.exists() and path.stat().st_mtime >= begun

    if is_new(out / MARK):
        shards = any(is_new(path) for path in (out / store.SHARDS_FOLDER).glob("[!.]*.parquet"))
        return "between shards" if shards else "looking at files, or at the first shard"
    if is_new(out / REPORT_FILE):
        return "after the report"
    if is_new(out / store.MANIFEST_FILE):
        return "tokenizer and report"
    return "joining shards" if is_new(out / store.QUARANTINE_FILE) else "starting"


def kills(inputs: Path, points: int, *, seed: int) -> dict[str, Any]:
    """Kill so many runs of the command, each at a random moment."""
    draw = random.Random(seed)
    named = ("--preset", "smoke", "--videos", inputs, "--texts", inputs)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tokenizer = folder / "tokenizer"
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(ringworld("train-tokenizer", *named, "--out", tokenizer), check=True, **quiet)

        def prepares(out: Path, workers: int) -> list[str]:
            where = ("--tokenizer", tokenizer, "--out", out, "--workers", workers)
            return ringworld("prepare", *named, *where, *KILLED)

        seconds = []
        for workers in (1, 2):
            begun = time.monotonic()
            subprocess.run(prepares(folder / f"whole{workers}", workers), check=True, **quiet)
            seconds.append(time.monotonic() - begun)
        expected = contents(folder / "whole1")
        equal = contents(folder / "whole2") == expected
        at: Counter[str] = Counter()
        rounds = 0
        while at.total() < points:
            out, workers = folder / f"killed{rounds}", 1 + rounds % 2
            for again in itertools.count():  # with more time each time: one that resumes starts more slowly
                begun = time.time()
                process = subprocess.Popen(prepares(out, workers), start_new_session=True, **quiet)
                try:
                    ended = process.wait(draw.uniform(0.2, 1.0 + again / 4) * seconds[workers - 1])
                    break
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    at[struck_at(out, begun=begun)] += 1
            if again == 0:  # as long as it takes now, whatever else the machine does
                seconds[workers - 1] = time.time() - begun
            equal = equal and not ended and contents(out) == expected
            rounds += 1
        return {
            "kills": at.total(),
            "struck": dict(at.most_common()),
            "runs_finished": rounds,
            "equal_bytes": equal,
            "files": len(expected),
        }


def engines(inputs: Path, workers: int, *, seed: int) -> dict[str, Any]:
    """Prepare INPUTS and a toy world by the pool and by Ray, with so many processes each."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        toy = render_toy_world(folder / "toy", ToyWorldConfig(clips=40, documents=60, seed=seed))
        named = ("--preset", "smoke", "--videos", inputs, toy.videos, "--texts", inputs, toy.texts)
        subprocess.run(ringworld("train-tokenizer", *named, "--out", folder / "tokenizer"), **QUIET)
        found: dict[str, Any] = {"workers": workers, "versions": versions("ray")}
        made = []
        for engine in ("pool", "ray"):
            where = ("--tokenizer", folder / "tokenizer", "--out", folder / engine, "--workers", workers)
            begun = time.monotonic()
            subprocess.run(ringworld("prepare", *named, *where, "--engine", engine, *KILLED), **QUIET)
            seconds = round(time.monotonic() - begun, 1)
            report = json.loads((folder / engine / REPORT_FILE).read_text())
            found[engine] = {"seconds": seconds} | {name: report[name] for name in OF_THE_RUN[1:]}
            made.append(contents(folder / engine))
        examples = store.ExampleStore(folder / "ray")
        return {
            **found,
            "equal_bytes": made[0] == made[1],
            "inputs": report["files"],
            "examples": len(examples),
            "kinds": sorted(set(examples.column("kind"))),
            "files": len(made[0]),
            "bytes": sum(map(len, made[0].values())),
        }


def mutants(inputs: Path, count: int, *, seed: int) -> dict[str, Any]:
    """Prepare so many damaged files at once: by turns bytes that changed, and hostile words of a grammar."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder, out = Path(temporary) / "in", Path(temporary) / "out"
        folder.mkdir()
        originals = originals_of(inputs, Path(temporary) / "originals")
        picture = picture_of(inputs)
        formats = Counter[str]()
        for index in range(count):
            if index % 2:
                grammar = GRAMMARS[index // 2 % len(GRAMMARS)]
                grammar(folder, f"{index:04d}", draw, picture)
                formats[f"hostile {grammar.__name__}"] += 1
                continue
            path = originals[index // 2 % len(originals)]
            target = folder / f"{index:04d}{path.suffix}"
            if path.name == MANIFEST_NAME:
                target = folder / f"{index:04d}" / path.name
                shutil.copytree(path.parent, target.parent)
            target.write_bytes(mutated(path.read_bytes(), draw))
            formats[path.suffix] += 1
        names = {path.name for path in folder.iterdir() if path.name != picture.name}
        at: list[tuple[str, float]] = []
        out.mkdir()
        (out / MARK).touch()
        report = run(
            folder, out, workers=1, on_progress=lambda done: at.append((done.phase, time.monotonic()))
        )
        spent = [later - began for (phase, began), (same, later) in itertools.pairwise(at) if phase == same]
        duplicates = [row["path"].partition("/")[2] for row in read_jsonl(out / store.DUPLICATES_FILE)]
        used = set(map(mutant_of, store.ExampleStore(out).column("source")))
        refused = {mutant_of(one.path) for one in report.quarantined}
        ended = [
            one.path
            for one in report.quarantined
            if "ended the process" in one.reason or "was given up" in one.reason
        ]
        return {
            "seed": seed,
            "mutants": dict(formats),
            "used_whole_or_in_part": len(used & names),
            "quarantined_whole_or_in_part": len(refused & names),
            "neither_used_nor_quarantined": sorted(names - used - refused - set(map(mutant_of, duplicates))),
            "without_a_reason": sum(not one.reason for one in report.quarantined),
            "ended_a_process": ended,
            "longest_seconds_of_a_file": round(max(spent), 1),
        }


def mutant_of(key: str) -> str:
    """Return which mutant a file or a sample belongs to: of `0005/manifest.jsonl#2`, `0005`."""
    return key.partition("#")[0].partition("/")[0]


def long_video(minutes: int, *, seed: int) -> dict[str, Any]:
    """Prepare a video of so many minutes in a process of its own."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        draw = np.random.default_rng(seed)
        picture = draw.integers(0, 256, (90, 160, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        (folder / "in").mkdir()
        with av.open(str(folder / "in/long.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=4, options={"preset": "ultrafast"})
            stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], "yuv420p"
            for _ in range(minutes * 60 * 4):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))
        found = {}
        for name, said in (("captioned", '{"caption": "Noise."}'), ("footage", "{}")):
            (folder / "in/long.json").write_text(said)
            ran = subprocess.run(
                part("measure", folder / "in", folder / name, 1), check=True, capture_output=True, text=True
            )
            found[name] = json.loads(ran.stdout.splitlines()[-1])
        return {"minutes": minutes, **found}


def text_rate(inputs: Path, megabytes: int, *, seed: int) -> dict[str, Any]:
    """Prepare texts of so many megabytes in all, by one process and by two."""
    draw = random.Random(seed)
    books = [path.read_text(encoding="utf-8-sig") for path in sorted(inputs.rglob("*.txt"))]
    paragraphs = [one for book in books for one in book.split("\n\n") if one.strip()]
    found: dict[str, Any] = {"megabytes": megabytes, "files": TEXT_FILES, "vocabulary": TEXT_VOCABULARY}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        TextTokenizer.train(books, vocab_size=TEXT_VOCABULARY).save(folder / "tokenizer")
        (folder / "in").mkdir()
        for index in range(TEXT_FILES):
            draw.shuffle(paragraphs)
            book = "\n\n".join(paragraphs).encode()
            wanted = megabytes * 10**6 // TEXT_FILES
            (folder / f"in/{index}.txt").write_bytes((book * (wanted // len(book) + 1))[:wanted])
        for workers in (1, 2):
            ran = subprocess.run(
                part("tokenize", folder, folder / f"out{workers}", workers),
                check=True,
                capture_output=True,
                text=True,
            )
            made = json.loads(ran.stdout.splitlines()[-1])
            rate = {"megabytes_per_second": round(megabytes / made["seconds"], 2)}
            found["one process" if workers == 1 else "two processes"] = made | rate
    return found


def tokenize(folder: Path, out: Path, workers: int) -> None:
    """Prepare texts, and print how long it took, with the start of other processes."""
    words = TextTokenizer.load(folder / "tokenizer")
    begun = time.monotonic()
    report = prepare(
        texts=(folder / "in",),
        out=out,
        tokenizer=words,
        vocabulary=Vocabulary(text_size=words.size),
        config=PrepareConfig(files_per_shard=1),
        workers=workers,
    )
    seconds = round(time.monotonic() - begun, 1)
    print(json.dumps({"seconds": seconds, "tokens": sum(one.tokens for one in report.parts)}))


def measure(inputs: Path, out: Path) -> None:
    """Prepare, and print how long it took and what the process held at most, before and after."""
    before, begun = peak_memory_bytes(), time.monotonic()
    report = run(inputs, out, workers=1)
    made = {
        "seconds": round(time.monotonic() - begun, 1),
        "peak_bytes": peak_memory_bytes(),
        "peak_bytes_before": before,
        "tokens": sum(one.tokens for one in report.parts),
    }
    print(json.dumps(made))


def part(name: str, *arguments: object) -> list[str]:
    """Return the command that does a part in a process of its own."""
    return [sys.executable, __file__, "--part", name, *map(str, arguments)]


def main() -> None:
    """Measure what is asked for, and print it."""
    if sys.argv[1:2] == ["--part"]:
        name, inputs, out, workers = sys.argv[2:]
        if name == "tokenize":
            tokenize(Path(inputs), Path(out), int(workers))
        else:
            measure(Path(inputs), Path(out))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("inputs", type=Path)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--mutants", type=int, default=0)
    parser.add_argument("--minutes", type=int, default=0)
    parser.add_argument("--engines", type=int, default=0)
    parser.add_argument("--text", type=int, default=0)
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
        "engines": lambda count: engines(asked.inputs, count, seed=asked.seed),
        "text": lambda count: text_rate(asked.inputs, count, seed=asked.seed),
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
