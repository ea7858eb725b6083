"""Streaming against one loop, and prompts in chunks against prompts whole: milliseconds a token, in turn.

    python benchmarks/streaming.py > benchmarks/results/streaming_cpu.json

Weights are random, of the widths of SmolLM2-135M with fewer layers. What is compared is run in turn, several
times, and each time is the least, so that what else the machine does matters little; ratios are of those.
"""

import argparse
import json
import time

import jax
import numpy as np

from ringworld.core.mesh import mesh_of
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.origin import machine, versions
from ringworld.inference.config import GREEDY, GenerationLimits
from ringworld.inference.generator import Generator
from ringworld.model.config import Architecture, Execution
from ringworld.model.decode import GenerationWeights
from ringworld.model.forward import Forward
from ringworld.model.world_model import WorldModel
from ringworld.text.vocabulary import Vocabulary

NEW_TOKENS, PROMPT_TOKENS = 129, 300


def generator_of(architecture: Architecture, *, chunk_tokens: int, weights: GenerationWeights) -> Generator:
    """Return a generator that reads so many tokens at a time."""
    return Generator(
        weights,
        forward=Forward.of(architecture, Execution()),
        vocabulary=Vocabulary(text_size=architecture.text_vocab),
        ends=[],
        mesh=mesh_of(MeshConfig()),
        limits=GenerationLimits(max_context_tokens=16384, chunk_tokens=chunk_tokens),
    )


def seconds(call) -> float:
    """Return how long a call takes."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def streaming(generator: Generator, prompt: np.ndarray, *, repeats: int) -> dict:
    """Return milliseconds a token, all in one loop and streamed."""
    session = generator.session()

    def streamed() -> float:
        list(session.read(prompt))
        return seconds(lambda: list(session.write(max_new_tokens=NEW_TOKENS, sampling=GREEDY)))

    whole, first, parts = [], [], []
    for _ in range(repeats + 1):  # the first compiles
        first.append(seconds(lambda: generator.generate([prompt], max_new_tokens=1)))
        whole.append(seconds(lambda: generator.generate([prompt], max_new_tokens=NEW_TOKENS)))
        parts.append(streamed())
    loop = (min(whole[1:]) - min(first[1:])) / (NEW_TOKENS - 1) * 1e3
    stream = min(parts[1:]) / (NEW_TOKENS - 1) * 1e3
    return {"loop_ms_a_token": loop, "streamed_ms_a_token": stream, "ratio": stream / loop}


def reading(generators: dict[str, Generator], prompt: np.ndarray, *, repeats: int) -> dict:
    """Return the seconds to the first token after a prompt, for each way of reading it."""
    took: dict[str, list[float]] = {name: [] for name in generators}
    for _ in range(repeats + 1):
        for name, generator in generators.items():
            took[name].append(seconds(lambda: generator.generate([prompt], max_new_tokens=1)))  # noqa: B023
    return {f"{name}_seconds": min(each[1:]) for name, each in took.items()}


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=8192, help="of the longest prompt")
    asked = parser.parse_args()
    architecture = Architecture(
        layers=asked.layers, embed=576, heads=9, kv_heads=3, head=64, mlp=1536, text_vocab=49152
    )
    with jax.set_mesh(mesh_of(MeshConfig())):
        model = jax.jit(lambda key: WorldModel.init(architecture, key=key))(jax.random.key(0))
        weights = GenerationWeights.from_model(model, compute="float32")
    ids = np.random.default_rng(0).integers(0, architecture.text_vocab, asked.tokens).astype(np.int32)
    generators = {
        "whole": generator_of(architecture, chunk_tokens=16384, weights=weights),
        "chunks_of_2048": generator_of(architecture, chunk_tokens=2048, weights=weights),
        "chunks_of_512": generator_of(architecture, chunk_tokens=512, weights=weights),
    }
    record = {
        "command": f"python benchmarks/streaming.py --layers {asked.layers} --repeats {asked.repeats} "
        f"--tokens {asked.tokens}",
        "versions": versions("ringworld", "jax", "jaxlib", "numpy"),
        "machine": machine(),
        "streaming": streaming(generators["chunks_of_2048"], ids[:PROMPT_TOKENS], repeats=asked.repeats),
        f"prompt_of_{asked.tokens}": reading(generators, ids, repeats=asked.repeats),
    }
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
