"""Masked packing beside padding: the time of a useful token, on the examples of the toy world.

    python benchmarks/packed_step.py > benchmarks/results/packed_step_cpu.json

The same examples are laid end to end, each seeing only itself, or one to a row that is padded. The compiled
step is one and the same, and batches of all kinds are trained on in turn; the time of each kind is the sum of
its steps. Padding is as wasteful as packed rows are fuller than padded ones: packing should be as many times
faster.

Rows are padded in two ways. In one, padding is computed as everything else, as LWM's code and transformers
do: each token of a row sees those before it. In the other, our attention skips blocks of padding, so that
padding costs no more than the feed-forward and the projections; packed rows cannot be faster than that by as
much as they are fuller.
"""

import argparse
import json
import shlex
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from brightness import Brightness
from packing import CONFIG

from ringworld.core.mesh import mesh_of
from ringworld.core.origin import machine, versions
from ringworld.data.batch import PackedRows
from ringworld.data.corpus import corpus
from ringworld.data.examples import Example
from ringworld.data.find_sources import find_sources
from ringworld.data.loader import PackedLoader
from ringworld.data.packing import to_batch
from ringworld.data.prepare import prepare
from ringworld.model.arrange import Layout
from ringworld.model.config import Architecture, Execution
from ringworld.quickstart.config import ToyWorldConfig
from ringworld.quickstart.toy_world import render_toy_world
from ringworld.text.tokenizer import TextTokenizer
from ringworld.text.vocabulary import Vocabulary
from ringworld.training.config import Stage, TrainingConfig
from ringworld.training.state import init_state
from ringworld.training.step import make_step

SEQUENCES, LAYERS, EMBED = 4, 4, 256


def toy_examples(folder: Path) -> tuple[Path, Vocabulary]:
    """Prepare the toy world, with frames encoded by their brightness."""
    toy = render_toy_world(
        folder / "toy", ToyWorldConfig(clips=60, held_out_clips=2, documents=600, longest_words=400)
    )
    texts = corpus(
        find_sources(texts=(toy.texts,), config=CONFIG), split="train", config=CONFIG, quarantined=[]
    )
    words = TextTokenizer.train(texts, vocab_size=512)
    vocabulary = Vocabulary(text_size=words.size, codes=64, codes_per_frame=16)
    prepare(
        videos=(toy.videos,),
        texts=(toy.texts,),
        out=folder / "examples",
        tokenizer=words,
        frame_tokenizer=Brightness(patches=4, patch_pixels=8),
        vocabulary=vocabulary,
        config=CONFIG,
    )
    return folder / "examples", vocabulary


def kinds(data: Path, vocabulary: Vocabulary, *, context: int, batches: int) -> dict[str, list[PackedRows]]:
    """Return batches of packed rows, and as many of padded ones of examples that are in them, in two ways."""
    loader = PackedLoader(data, split="train", context_tokens=context, batch_sequences=SEQUENCES, seed=0)
    drawn = [loader.next_rows() for _ in range(batches)]
    loader.close()
    alone = [[example] for rows in drawn for row in rows for example in row]
    # Evenly from all, since a packed row holds many.
    stride = len(alone) // (SEQUENCES * batches)
    padded = [alone[stride * SEQUENCES * i : stride * SEQUENCES * (i + 1) : stride] for i in range(batches)]

    def batch(rows: list[list[Example]]) -> PackedRows:
        return to_batch(rows, context_tokens=context, text_size=vocabulary.text_size)

    return {
        "packed": [batch(rows) for rows in drawn],
        "padded": [batch(rows) for rows in padded],
        "padded, computed whole": [whole(batch(rows)) for rows in padded],
    }


def whole(rows: PackedRows) -> PackedRows:
    """Return rows of which each token sees those before it, padding too; its loss is still nothing."""
    batch = rows.batch
    order = np.broadcast_to(np.arange(batch.order.shape[1], dtype=np.int32), batch.order.shape)
    return replace(rows, batch=batch._replace(order=order, first=np.zeros_like(batch.first)))


def measure(folder: Path, *, context: int, batches: int) -> dict[str, Any]:
    """Train on batches of all kinds in turn."""
    data, vocabulary = toy_examples(folder)
    of_kind = kinds(data, vocabulary, context=context, batches=batches)
    architecture = Architecture(
        layers=LAYERS,
        embed=EMBED,
        heads=EMBED // 64,
        kv_heads=EMBED // 64,
        head=64,
        mlp=3 * EMBED,
        text_vocab=vocabulary.text_size,
        vision_vocab=vocabulary.vision_size,
    )
    stage = Stage(
        name="bench",
        context_tokens=context,
        rope_base=1e4,
        steps=1 << 20,
        batch_sequences=SEQUENCES,
        learning_rate=1e-4,
    )
    config, execution, mesh = TrainingConfig(stages=(stage,)), Execution(), mesh_of(stage.mesh)
    seconds = dict.fromkeys(of_kind, 0.0)
    with jax.set_mesh(mesh):
        state = init_state(config, architecture, mesh=mesh)
        layout = Layout(execution.attention, mesh=mesh)

        def placed(rows: PackedRows) -> Any:
            return (layout.place(rows.batch, rows.lengths).arrays,)

        first = placed(of_kind["packed"][0])
        compiled = make_step(config, stage, architecture, execution).lower(state, first).compile()
        state, _ = jax.block_until_ready(compiled(state, first))
        for together in zip(*of_kind.values()):
            for kind, rows in zip(seconds, together):
                pieces = jax.block_until_ready(placed(rows))
                begun = time.perf_counter()
                state, _ = jax.block_until_ready(compiled(state, pieces))
                seconds[kind] += time.perf_counter() - begun
    tokens = {
        kind: sum(length for rows in of for row in rows.lengths for length in row)
        for kind, of in of_kind.items()
    }
    a_token = {kind: seconds[kind] / tokens[kind] for kind in seconds}
    fuller = tokens["packed"] / tokens["padded"]
    faster = {kind: a_token[kind] / a_token["packed"] for kind in seconds}
    return {
        "microseconds_a_useful_token": {kind: 1e6 * value for kind, value in a_token.items()},
        "fill": {kind: count / (batches * SEQUENCES * context) for kind, count in tokens.items()},
        "times_as_full_as_padded": fuller,
        "times_as_fast_as": {kind: value for kind, value in faster.items() if kind != "packed"},
        "times_as_fast_over_times_as_full": {
            kind: value / fuller for kind, value in faster.items() if kind != "packed"
        },
    }


def main() -> None:
    """Measure, and print the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=2048, help="of a row")
    parser.add_argument("--batches", type=int, default=20)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        results = measure(Path(work), context=asked.tokens, batches=asked.batches)
    record = {
        "command": shlex.join(["python", "benchmarks/packed_step.py", *sys.argv[1:]]),
        "versions": versions("ringworld", "jax", "jaxlib"),
        "machine": machine(),
        "shape": {"layers": LAYERS, "embed": EMBED, "sequences": SEQUENCES, "tokens": asked.tokens},
        "results": results,
    }
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
