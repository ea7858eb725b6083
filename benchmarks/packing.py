r"""How fast packed batches come, how full sequences are, and whether a run resumes with the very next one.

    python benchmarks/packing.py BOOKS --seconds 5 --steps 100 --resume 200 \
        --out benchmarks/results/packing.json

BOOKS is a folder of texts. Two data sets are prepared from nothing: the toy world, whose examples are short,
with frames encoded by their brightness, and BOOKS, cut to documents of 500 to 200,000 characters whose
lengths are spread evenly over the powers of two; what has more than 8,192 tokens is several examples.

* rates: for each data set, both together, and each way to fit, the tokens a second of `PackedLoader`, from
  files to arrays, without padding, and the part of the sequences that they fill.
* wait: a small model is trained, and what counts is how long its steps wait for data.
* resume: for each way to pack, a run of so many steps is compared, row by row, with loaders that resume at
  each of its steps, and with one run in three parts: of one process, of two that read half of the rows each,
  and of one. The examples of its batches and those that wait must be those that were drawn, each as often:
  nothing is there twice, nothing lost.
"""

import argparse
import hashlib
import itertools
import json
import multiprocessing
import random
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import grain
from brightness import Brightness

from ringworld import presets
from ringworld.core.files import read_jsonl, write_json_atomic
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.origin import Origin, machine, versions
from ringworld.core.steps import METRICS_FILE
from ringworld.data.batch import PackedRows
from ringworld.data.config import MixtureConfig, PackingConfig, PrepareConfig
from ringworld.data.corpus import corpus
from ringworld.data.drawable import Excerpt, Excerpts, drawable_of, rows_by
from ringworld.data.examples import Example
from ringworld.data.find_sources import find_sources
from ringworld.data.loader import PackedLoader
from ringworld.data.prepare import prepare
from ringworld.data.store import ALL_FRAMES, ExampleStore
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
CONTEXT_TOKENS, BATCH_SEQUENCES, SEED = 32_768, 4, 0
TRAINED_TOKENS = 2048
SHORTEST_CHARACTERS, LONGEST_CHARACTERS = 500, 200_000


def cut(books: Path, folder: Path) -> Path:
    """Write documents of many lengths that follow each other in the books."""
    folder.mkdir()
    draw = random.Random(SEED)
    ratio = LONGEST_CHARACTERS / SHORTEST_CHARACTERS
    for path in sorted(path for path in books.rglob("*") if path.is_file()):
        text, at = path.read_text(errors="replace"), 0
        while at < len(text):
            stop = at + int(SHORTEST_CHARACTERS * ratio ** draw.random())
            (folder / f"{path.stem}-{at:09d}.txt").write_text(text[at:stop])
            at = stop
    return folder


def examples(books: Path, folder: Path) -> Path:
    """Prepare both data sets."""
    toy = render_toy_world(
        folder / "toy", ToyWorldConfig(clips=60, held_out_clips=2, documents=2000, longest_words=1000)
    )
    named = cut(books, folder / "books")
    sources = find_sources(texts=(toy.texts, named), config=CONFIG)
    texts = corpus(sources, split="train", config=CONFIG, quarantined=[])
    words = TextTokenizer.train((text[:200_000] for text in texts), vocab_size=4096)
    prepare(
        videos=(toy.videos,),
        texts=(toy.texts, named),
        out=folder / "examples",
        tokenizer=words,
        frame_tokenizer=Brightness(patches=4, patch_pixels=8),
        vocabulary=Vocabulary(text_size=words.size, codes=64, codes_per_frame=16),
        config=CONFIG,
    )
    return folder / "examples"


def loader(
    data: Path,
    mixture: MixtureConfig,
    packing: PackingConfig,
    *,
    context: int,
    rows: tuple[int, ...] | None = None,
) -> PackedLoader:
    """Return the loader of one stage, or of one process, which reads some rows of each batch."""
    return PackedLoader(
        data,
        split="train",
        context_tokens=context,
        batch_sequences=BATCH_SEQUENCES,
        seed=SEED,
        mixture=mixture,
        packing=packing,
        rows=rows,
    )


def rate(data: Path, mixture: MixtureConfig, packing: PackingConfig, *, seconds: float) -> dict[str, float]:
    """Measure tokens a second, and how full sequences are."""
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


def digests(packed: PackedRows) -> list[str]:
    """Return a hash of all arrays of each row of a batch."""
    return [
        hashlib.sha256(b"".join(field[row].tobytes() for field in packed.batch)).hexdigest()
        for row in range(BATCH_SEQUENCES)
    ]


def identity(example: Example) -> tuple[str, str, str, int, str]:
    """Return what tells an example or a piece of one from all others."""
    content = hashlib.sha256(example.tokens.tobytes() + example.loss.tobytes()).hexdigest()
    return example.dataset, example.kind, example.source, example.start_token, content


def steps(
    data: Path, packing: str, state: str | None, count: int, rows: tuple[int, ...]
) -> tuple[list[list[str]], str]:
    """Return the hashes of some rows of so many batches after a state, and the state after them."""
    running = loader(data, MIXTURES["both"], RESUMED[packing], context=TRAINED_TOKENS, rows=rows)
    if state is not None:
        running.set_state(json.loads(state))
    made = [digests(next(running)) for _ in range(count)]
    return [[batch[row] for row in rows] for batch in made], json.dumps(running.get_state())


def in_parts(data: Path, packing: str, count: int) -> list[list[str]]:
    """Return the hashes of all rows of a run of one process, of two, and of one."""
    third, state, found = count // 3, None, []
    every = tuple(range(BATCH_SEQUENCES))
    halves = [every[: BATCH_SEQUENCES // 2], every[BATCH_SEQUENCES // 2 :]]
    for of_processes, many in (([every], third), (halves, third), ([every], count - 2 * third)):
        with multiprocessing.get_context("spawn").Pool(len(of_processes)) as pool:
            made = pool.starmap(steps, [(data, packing, state, many, rows) for rows in of_processes])
        hashes, states = zip(*made)
        assert len(set(states)) == 1, "two processes are at different places"
        found += [list(itertools.chain(*parts)) for parts in zip(*hashes)]
        state = states[0]
    return found


def drawn(data: Path, packing: PackingConfig, count: int) -> Counter[tuple[str, str, str, int, str]]:
    """Return the first examples that the mixture gives, whoever packs them."""
    store, mixture = ExampleStore(data), MIXTURES["both"]
    named = rows_by(store, "train", mixture, by="name")
    drawable = drawable_of(
        store, named, mixture, ALL_FRAMES, TRAINED_TOKENS, longer=packing.longer, split="train"
    )
    parts = [Excerpts(index, of_name, seed=SEED) for index, of_name in enumerate(drawable.pieces.values())]
    mixed = grain.MapDataset.mix(parts, weights=drawable.weights(mixture))
    return read(store, [mixed[index] for index in range(count)])


def read(store: ExampleStore, pieces: list[Any]) -> Counter[tuple[str, str, str, int, str]]:
    """Return how often each of some pieces is among them."""
    return Counter(map(identity, store.read_all([(one.row, one.start, one.stop) for one in pieces])))


def resume(data: Path, packing: str, count: int) -> dict[str, Any]:
    """Compare a run with others that resume it."""
    running = loader(data, MIXTURES["both"], RESUMED[packing], context=TRAINED_TOKENS)
    states, whole = [], []
    for _ in range(count + 1):
        states.append(json.dumps(running.get_state()))
        whole.append(digests(next(running)))
    equal = 0
    for step, state in enumerate(states):
        running.set_state(json.loads(state))
        equal += digests(next(running)) == whole[step]
    running.set_state(json.loads(states[0]))
    rows = [row for _ in range(count + 1) for row in running.next_rows()]
    packed = Counter(identity(example) for row in rows for example in row)
    last = running.get_state()
    running.close()
    waiting = [Excerpt(*numbers) for row in itertools.chain(last["open"], last["full"]) for numbers in row]
    there = packed + read(ExampleStore(data), waiting)
    expected = drawn(data, RESUMED[packing], last["draws"])
    return {
        "steps": count,
        "resumed_equal": equal == count + 1,
        "one_two_one_processes_equal": in_parts(data, packing, count + 1) == whole,
        "drawn": expected.total(),
        "lost": (expected - there).total(),
        "twice": (there - expected).total(),
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
