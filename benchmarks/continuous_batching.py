"""Seconds for 16 requests of mixed length, together in an engine and one by one, and for a prefix again.

    python benchmarks/continuous_batching.py --model models/smollm2-135m --text book.txt \
        > benchmarks/results/continuous_batching_cpu.json

`--model random` makes a small model with random weights, which shows that the program works and nothing else.
Both ways are compiled before, take turns for some rounds, and count with the least of their seconds. One by
one is the faster of `World.generator`, whose programs have one row, and of the engine itself. What both write
is compared token by token.
"""

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from random_model import random_model

import ringworld as rw
from ringworld.core.origin import machine, versions
from ringworld.inference.config import EngineConfig
from ringworld.inference.engine.engine import Engine
from ringworld.inference.engine.sequence import GenerationRequest
from ringworld.inference.world import World
from ringworld.model.config import Architecture

REQUESTS = 16
PROMPT_TOKENS = (16, 256)
NEW_TOKENS = (64, 192)
PREFIX_SHARE = 0.5
"""Of the context, what a question is asked about twice."""
QUESTION_TOKENS = 32
RANDOM = Architecture(layers=4, embed=128, heads=4, kv_heads=2, head=32, mlp=352, text_vocab=300)


def requests_of(ids: np.ndarray) -> list[GenerationRequest]:
    """Return prompts cut from a text, short and long ones in turn, none beginning like another."""
    draws = np.random.default_rng(0)
    prompts = np.geomspace(*PROMPT_TOKENS, REQUESTS).astype(int)
    answers = np.linspace(*NEW_TOKENS, REQUESTS).astype(int)
    starts = draws.permutation(np.linspace(1, len(ids) - PROMPT_TOKENS[1], REQUESTS).astype(int))
    return [
        GenerationRequest(prompt=ids[start : start + prompt], max_new_tokens=int(new))
        for start, prompt, new in zip(starts, draws.permutation(prompts), draws.permutation(answers))
    ]


def together(engine: Engine, requests: list[GenerationRequest]) -> list[list[int]]:
    """Return what follows each prompt, all asked at once."""
    streams = [engine.stream(request) for request in requests]
    return [[piece.token.id for piece in stream if piece.token] for stream in streams]


def alone(engine: Engine, requests: list[GenerationRequest]) -> list[list[int]]:
    """Return the same, one asked after the other."""
    return [ids for request in requests for ids in together(engine, [request])]


def generated(world: World, requests: list[GenerationRequest]) -> list[list[int]]:
    """Return the same by the generator, a prompt a call."""
    calls = (
        world.generator.generate([each.prompt], max_new_tokens=each.max_new_tokens)[0] for each in requests
    )
    return [call.tokens.tolist() for call in calls]


def batching(world: World, requests: list[GenerationRequest], *, rounds: int) -> dict:
    """Measure the ways in turn."""
    ways: dict[str, Callable[[Engine], list[list[int]]]] = {
        "together": lambda engine: together(engine, requests),
        "generator_one_by_one": lambda _: generated(world, requests),
        "engine_one_by_one": lambda engine: alone(engine, requests),
    }
    best, steps = dict.fromkeys(ways, np.inf), 0
    written: dict[str, list[list[int]]] = {}
    for _ in range(1 + rounds):  # the first compiles
        for name, run in ways.items():
            # A new engine each time, whose cache holds no prompt of the last round.
            with world.engine(EngineConfig(max_sequences=REQUESTS)) as engine:
                begun = time.perf_counter()
                found = run(engine)
                taken = time.perf_counter() - begun
                steps = max(steps, engine.state.steps) if name == "together" else steps
            print(f"{name} {taken:.3f} s", file=sys.stderr, flush=True)
            best[name] = min(best[name], taken if name in written else np.inf)
            written[name] = found
    new_tokens = sum(map(len, written["together"]))
    one_by_one = min(best["generator_one_by_one"], best["engine_one_by_one"])
    return {
        "prompt_tokens": [len(each.prompt) for each in requests],
        "new_tokens": [len(ids) for ids in written["together"]],
        "steps_together": steps,
        "seconds": best,
        "tokens_a_second_together": new_tokens / best["together"],
        "times_the_throughput_of_one_by_one": one_by_one / best["together"],
        "equal_outputs": {
            name: sum(a == b for a, b in zip(written["together"], ids)) for name, ids in written.items()
        },
    }


def prefix(world: World, ids: np.ndarray, *, rounds: int) -> dict:
    """Measure the first token of a question about a text that was not asked about before, and was."""
    long = int(PREFIX_SHARE * world.generator.limits.max_context_tokens)
    best: dict[str, float] = {}
    for _ in range(rounds + 1):
        with world.engine() as engine:
            engine.warm_up()
            for name, question in (("first", 0), ("second", QUESTION_TOKENS)):
                asked = ids[long + question : long + question + QUESTION_TOKENS]
                prompt = np.concatenate([ids[:long], asked])
                begun = time.perf_counter()
                together(engine, [GenerationRequest(prompt=prompt, max_new_tokens=1)])
                best[name] = min(best.get(name, np.inf), time.perf_counter() - begun)
    return {
        "prefix_tokens": long,
        "question_tokens": QUESTION_TOKENS,
        "first_token_seconds": best,
        "times_sooner": best["first"] / best["second"],
    }


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, metavar="FOLDER|random")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folder = random_model(Path(work) / "random", RANDOM) if asked.model == "random" else Path(asked.model)
        world = rw.load(folder)
    draws = np.random.default_rng(1)
    ids = draws.integers(0, world.prompts.tokenizer.size, 10_000).astype(np.int32)
    if asked.text:
        ids = world.prompts.text(asked.text.read_text()[: 20 * len(ids)])
    record = {
        "command": shlex.join(["python", "benchmarks/continuous_batching.py", *sys.argv[1:]]),
        "versions": versions("ringworld", "jax", "jaxlib", "numpy"),
        "machine": machine(),
        "model": Path(asked.model).name,
        "text": asked.text.name if asked.text else "random ids",
        "compute": "float32",
        "rounds": asked.rounds,
        "batching": batching(world, requests_of(ids), rounds=asked.rounds),
        "prefix": prefix(world, ids, rounds=asked.rounds),
    }
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
