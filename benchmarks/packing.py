r"""How fast packed batches come, how full their rows are, and whether a run resumes with the very next one.

    python benchmarks/packing.py BOOKS --seconds 5 --steps 100 --resume 200 \
        --out benchmarks/results/packing.json

BOOKS is a folder of texts. Two data sets are prepared from nothing: the toy world, whose examples are short,
with frames encoded by their brightness, and BOOKS, in documents of up to 8,192 tokens.

* rates: for each data set, both together, and each way to fit, the tokens a second of `PackedLoader`, from
  files to arrays, without padding, and the part of the rows that they fill.
* resume: for each way to pack, a run of so many steps is compared, batch by batch, with loaders that resume
  at each of its steps, and with one run in three parts, of one process, two, and one. What was drawn in all
  must be what is in batches or waits: nothing twice, nothing lost.
"""

import argparse
import hashlib
import itertools
import json
import multiprocessing
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ringworld import presets
from ringworld.core.files import read_jsonl, write_json_atomic
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.origin import Origin, machine, versions
from ringworld.core.steps import METRICS_FILE
from ringworld.data.batch import PackedRows
from ringworld.data.config import MixtureConfig, PackingConfig, PrepareConfig
from ringworld.data.corpus import corpus
from ringworld.data.find_sources import find_sources
from ringworld.data.loader import PackedLoader
from ringworld.data.prepare import prepare
from ringworld.data.store import ExampleStore
from ringworld.quickstart.config import ToyWorldConfig
from ringworld.quickstart.toy_world import render_toy_world
from ringworld.text.tokenizer import TextTokenizer
from ringworld.text.vocabulary import Vocabulary
from ringworld.training.loop import train

CONFIG = PrepareConfig(max_frames=8)
MIXTURES = {
    "toy": MixtureConfig(ratios={"videos/*": 1.0, "texts/*": 4.0}),
    "books": MixtureConfig(ratios={"books/text": 1.0}),
    "both": MixtureConfig(ratios={"videos/*": 1.0, "texts/*": 4.0, "books/text": 1.0}),
}
RESUMED = {
    "first": PackingConfig(),
    "best": PackingConfig(fit="best"),
    "apart": PackingConfig(together="name"),
    "truncate": PackingConfig(longer="truncate"),
    "leave_out": PackingConfig(longer="leave_out"),
    "token": PackingConfig(weights="token"),
}
CONTEXT_TOKENS, BATCH_SEQUENCES = 32_768, 4
TRAINED_TOKENS = 2048


class Brightness:
    """A frame tokenizer without weights: 16 codes a frame, the brightness of each patch."""

    resolution = 32
    fingerprint = "brightness"

    def encode(self, frames: np.ndarray) -> np.ndarray:
        """Return 4 x 4 codes of each frame."""
        patches = frames.reshape(len(frames), 4, 8, 4, 8, 3).mean(axis=(2, 4, 5))
        return (patches // 4).astype(np.int32).reshape(len(frames), 16)


def examples(books: Path, folder: Path) -> Path:
    """Prepare both data sets."""
    toy = render_toy_world(
        folder / "toy", ToyWorldConfig(clips=60, held_out_clips=2, documents=2000, longest_words=1000)
    )
    named = folder / "books"
    shutil.copytree(books, named)
    sources = find_sources(texts=(toy.texts, named), config=CONFIG)
    texts = corpus(sources, split="train", config=CONFIG, quarantined=[])
    words = TextTokenizer.train((text[:200_000] for text in texts), vocab_size=4096)
    prepare(
        videos=(toy.videos,),
        texts=(toy.texts, named),
        out=folder / "examples",
        tokenizer=words,
        frame_tokenizer=Brightness(),
        vocabulary=Vocabulary(text_size=words.size, codes=64, codes_per_frame=16),
        config=CONFIG,
    )
    return folder / "examples"


def loader(data: Path, mixture: MixtureConfig, packing: PackingConfig, *, context: int) -> PackedLoader:
    """Return the loader of one stage."""
    return PackedLoader(
        data,
        split="train",
        context_tokens=context,
        batch_sequences=BATCH_SEQUENCES,
        seed=0,
        mixture=mixture,
        packing=packing,
    )


def rate(data: Path, mixture: MixtureConfig, packing: PackingConfig, *, seconds: float) -> dict[str, float]:
    """Measure tokens a second, and how full rows are."""
    running = loader(data, mixture, packing, context=CONTEXT_TOKENS)
    next(running), next(running)
    tokens = batches = examples = 0
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        packed = next(running)
        tokens, batches = tokens + sum(map(sum, packed.lengths)), batches + 1
        examples += sum(map(len, packed.lengths))
    elapsed = time.perf_counter() - begun
    running.close()
    return {
        "tokens_per_second": tokens / elapsed,
        "fill": tokens / (batches * BATCH_SEQUENCES * CONTEXT_TOKENS),
        "mean_example_tokens": tokens / examples,
    }


def wait(data: Path, steps: int) -> dict[str, float]:
    """Train, and measure how long it waits for data, but for the first step, which starts the loader."""
    smoke, made_for = presets.smoke(), ExampleStore(data).dataset.vocabulary
    stage = replace(
        smoke.training.stages[0],
        context_tokens=TRAINED_TOKENS,
        batch_sequences=BATCH_SEQUENCES,
        steps=steps,
        mesh=MeshConfig(),
        mixture=MIXTURES["both"],
    )
    config = replace(smoke.training, stages=(stage,), log_every_steps=1, checkpoint_every_steps=steps)
    model = replace(smoke.model, text_vocab=made_for.text_size, vision_vocab=made_for.vision_size)
    with tempfile.TemporaryDirectory() as folder:
        train(
            config,
            architecture=model,
            execution=smoke.execution,
            data_dir=data,
            out=Path(folder) / "run",
            origin=Origin(kind="run"),
        )
        rows = read_jsonl(Path(folder) / "run" / METRICS_FILE)[1:]
    spent, waited = (sum(row[name] for row in rows) for name in ("seconds", "data_wait_seconds"))
    return {
        "steps": steps,
        "context_tokens": TRAINED_TOKENS,
        "seconds_a_step": spent / len(rows),
        "part_waiting_for_data": waited / spent,
    }


def digest(packed: PackedRows) -> str:
    """Return a hash of all arrays of a batch."""
    return hashlib.sha256(
        b"".join(np.ascontiguousarray(field).tobytes() for field in packed.batch)
    ).hexdigest()


def steps(data: Path, packing: str, state: str | None, count: int) -> tuple[list[str], str]:
    """Return the hashes of so many batches after a state, and the state after them: work for a process."""
    running = loader(data, MIXTURES["both"], RESUMED[packing], context=2048)
    if state is not None:
        running.set_state(json.loads(state))
    made = [digest(next(running)) for _ in range(count)]
    return made, json.dumps(running.get_state())


def resume(data: Path, packing: str, count: int) -> dict[str, Any]:
    """Compare a run with others that resume it."""
    running = loader(data, MIXTURES["both"], RESUMED[packing], context=2048)
    states, whole, pieces = [], [], 0
    for _ in range(count + 1):
        states.append(json.dumps(running.get_state()))
        packed = next(running)
        whole.append(digest(packed))
        pieces += sum(map(len, packed.lengths))
    last = running.get_state()
    waiting = sum(map(len, itertools.chain(last["open"], last["full"])))
    equal = 0
    for step, state in enumerate(states):
        running.set_state(json.loads(state))
        equal += digest(next(running)) == whole[step]
    running.close()
    third, state, found = count // 3, None, []
    for processes, many in ((1, third), (2, third), (1, count + 1 - 2 * third)):
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            made = pool.starmap(steps, [(data, packing, state, many)] * processes)
        assert all(one == made[0] for one in made), "two processes draw different batches"
        found, state = found + made[0][0], made[0][1]
    return {
        "steps": count,
        "resumed_equal": equal == count + 1,
        "one_two_one_processes_equal": found == whole,
        "drawn": last["draws"],
        "packed_or_waiting": pieces + waiting,
    }


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("books", type=Path)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--resume", type=int, default=200)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = examples(arguments.books, Path(folder))
        rates = {
            f"{name}, {fit} fit": rate(
                data, mixture, PackingConfig(open_sequences=16, fit=fit), seconds=arguments.seconds
            )
            for name, mixture in MIXTURES.items()
            for fit in ("first", "best")
        }
        waited = wait(data, arguments.steps) if arguments.steps else {}
        resumed = {name: resume(data, name, arguments.resume) for name in RESUMED} if arguments.resume else {}
    result = {
        "command": f"python benchmarks/packing.py BOOKS --seconds {arguments.seconds:g} "
        f"--steps {arguments.steps} --resume {arguments.resume} --out FILE",
        "machine": machine(),
        "versions": versions("grain", "array-record", "numpy", "pyarrow"),
        "context_tokens": CONTEXT_TOKENS,
        "rates": rates,
        "wait": waited,
        "resume": resumed,
    }
    write_json_atomic(arguments.out, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
