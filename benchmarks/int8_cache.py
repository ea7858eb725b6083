"""What a cache of int8 costs a model: perplexity over a text, and bytes.

    make smollm2
    python benchmarks/int8_cache.py models/smollm2-135m > benchmarks/results/int8_cache.json

The text is this repository's own pages. It is read in chunks, each of which attends to what the cache holds,
so that nearly all attention is to rounded keys and values.
"""

import argparse
import json
import math
import time
from pathlib import Path

import jax
import numpy as np

import ringworld as rw
from ringworld.core.origin import machine, versions
from ringworld.inference.config import EngineConfig
from ringworld.inference.engine.sequence import GenerationRequest

TOKENS, CHUNK_TOKENS = 4096, 256


def main() -> None:
    """Score the same text by both caches, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    model = parser.parse_args().model
    world = rw.load(model)
    text = "\n\n".join(path.read_text() for path in sorted(Path("docs").rglob("*.md")))
    prompt = world.prompts.text(text)[:TOKENS]
    found, nats = {}, {}
    for cache_type in ("compute", "int8"):
        config = EngineConfig(
            max_sequences=1, cache_tokens=2 * TOKENS, cache_type=cache_type, chunk_tokens=CHUNK_TOKENS
        )
        with world.engine(config) as engine:
            begun = time.perf_counter()
            (piece,) = engine.stream(GenerationRequest(prompt=prompt, max_new_tokens=0, score_prompt=True))
            nats[cache_type] = np.array([-token.logprob for token in piece.prompt])
            found[cache_type] = {
                "perplexity": math.exp(nats[cache_type].mean()),
                "seconds_with_compilation": time.perf_counter() - begun,
                "bytes_per_token": engine.between_rounds(
                    lambda _, programs: sum(leaf.nbytes for leaf in jax.tree.leaves(programs.pool))
                ).result()
                / (engine.state.pages + 1)
                / engine.page_tokens,
            }
    record = {
        "command": f"python benchmarks/int8_cache.py {model.name}",
        "versions": versions("ringworld", "jax", "jaxlib", "numpy"),
        "machine": machine(),
        "model": model.name,
        "tokens": len(prompt),
        "results": found,
        "mean_absolute_difference_nats": float(np.abs(nats["int8"] - nats["compute"]).mean()),
        "largest_difference_nats": float(np.abs(nats["int8"] - nats["compute"]).max()),
    }
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
