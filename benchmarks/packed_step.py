"""Masked packing beside padding: the time of a useful token, on the examples of the toy world.

    python benchmarks/packed_step.py > benchmarks/results/packed_step_cpu.json

The same examples are laid end to end, each seeing only itself, or one to a row that is padded. The compiled
step is one and the same, and batches of both kinds are trained on in turn; the time of each kind is the sum
of its steps. Padding is as wasteful as packed rows are fuller than padded ones: packing should be as many
times faster.
"""

import argparse
import json
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
from brightness import Brightness
from packing import CONFIG

from ringworld.core.mesh import mesh_of
from ringworld.core.origin import machine, versions
from ringworld.data.batch import PackedRows
from ringworld.data.corpus import corpus
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


def both_kinds(
    data: Path, vocabulary: Vocabulary, *, context: int, batches: int
) -> tuple[list[PackedRows], list[PackedRows]]:
    """Return batches of packed rows, and as many of padded ones of examples that are in them."""
    loader = PackedLoader(data, split="train", context_tokens=context, batch_sequences=SEQUENCES, seed=0)
    drawn = [loader.next_rows() for _ in range(batches)]
    loader.close()
    alone = [[example] for rows in drawn for row in rows for example in row]
    # Evenly from all, since a packed row holds many.
    stride = len(alone) // (SEQUENCES * batches)
    padded = [alone[stride * SEQUENCES * i : stride * SEQUENCES * (i + 1) : stride] for i in range(batches)]
    size = vocabulary.text_size
    return (
        [to_batch(rows, context_tokens=context, text_size=size) for rows in drawn],
        [to_batch(rows, context_tokens=context, text_size=size) for rows in padded],
    )


def measure(folder: Path, *, context: int, batches: int) -> dict[str, Any]:
    """Train on both kinds of batches in turn."""
    data, vocabulary = toy_examples(folder)
    packed, padded = both_kinds(data, vocabulary, context=context, batches=batches)
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
    seconds = {"packed": 0.0, "padded": 0.0}
    with jax.set_mesh(mesh):
        state = init_state(config, architecture, mesh=mesh)
        layout = Layout(execution.attention, mesh=mesh)

        def placed(rows: PackedRows) -> Any:
            return (layout.place(rows.batch, rows.lengths).arrays,)

        compiled = make_step(config, stage, architecture, execution).lower(state, placed(packed[0])).compile()
        state, _ = jax.block_until_ready(compiled(state, placed(packed[0])))
        for pair in zip(packed, padded):
            for kind, rows in zip(seconds, pair):
                pieces = jax.block_until_ready(placed(rows))
                begun = time.perf_counter()
                state, _ = jax.block_until_ready(compiled(state, pieces))
                seconds[kind] += time.perf_counter() - begun
    tokens = {
        kind: sum(map(sum, (length for rows in of for length in rows.lengths)))
        for kind, of in (("packed", packed), ("padded", padded))
    }
    slots = batches * SEQUENCES * context
    a_token = {kind: seconds[kind] / tokens[kind] for kind in seconds}
    wasteful, faster = tokens["packed"] / tokens["padded"], a_token["padded"] / a_token["packed"]
    return {
        "microseconds_a_useful_token": {kind: 1e6 * value for kind, value in a_token.items()},
        "fill": {kind: count / slots for kind, count in tokens.items()},
        "times_as_fast": faster,
        "times_as_full": wasteful,
        "times_as_fast_over_times_as_full": faster / wasteful,
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
