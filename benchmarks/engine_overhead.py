"""A round of the engine against the compiled step alone, with as many sequences as it decodes together.

    python benchmarks/engine_overhead.py --model models/smollm2-135m \
        > benchmarks/results/engine_overhead_cpu.json

`--model random` makes a small model of random weights, for which the host's part is the largest. Sixteen
sequences are read and then written for some rounds. Between two rounds, many times over, the same engine
runs the compiled program of a step alone: with the same sequences, weights and pages, its arguments on the
device, waiting for what it draws as a round does. So both have contexts of the same lengths and the same
machine. What a round takes besides is the engine: choosing, placing arguments, text of ids, delivering.
"""

import argparse
import json
import shlex
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import jax
import numpy as np
from random_model import random_model

import ringworld as rw
from ringworld.core.origin import machine, versions
from ringworld.core.sharding import spec
from ringworld.inference.config import EngineConfig
from ringworld.inference.engine.engine import Engine
from ringworld.inference.engine.programs import Programs
from ringworld.inference.engine.scheduler import Scheduler
from ringworld.inference.engine.sequence import GenerationRequest, Piece
from ringworld.inference.world import World
from ringworld.model.config import Architecture

SEQUENCES, PROMPT_TOKENS, EVERY, ALONE = 16, 128, 8, 4
RANDOM = Architecture(layers=2, embed=64, heads=2, kv_heads=1, head=32, mlp=128, text_vocab=300)


class Watch:
    """Takes the seconds of rounds in which all sequences are written, and of steps alone between them."""

    def __init__(self, engine: Engine) -> None:
        """Begin without any."""
        self.engine = engine
        self.of_round: list[float] = []
        self.alone: list[float] = []
        self.finished = threading.Semaphore(0)
        self._begun = 0.0

    def of_first(self, piece: Piece | BaseException) -> None:
        """Take a piece of the first sequence, with which each round begins to deliver."""
        now, state = time.perf_counter(), self.engine.state
        if self._begun and state.running == SEQUENCES:
            self.of_round.append(now - self._begun)
        self._begun = now
        if state.steps % EVERY == 0:
            self.engine.between_rounds(self._step_alone)
            self._begun = 0.0
        self.of_any(piece)

    def of_any(self, piece: Piece | BaseException) -> None:
        """Take a piece of a sequence."""
        if isinstance(piece, BaseException) or piece.finish is not None:
            self.finished.release()

    def _step_alone(self, scheduler: Scheduler, programs: Programs) -> None:
        # It writes the keys that the next round writes again, of the same tokens at the same places.
        running = scheduler.steppable()
        replicated = jax.NamedSharding(jax.sharding.get_mesh(), spec())
        rows = jax.device_put(programs.rows_of(running), replicated)
        for _ in range(ALONE if len(running) == SEQUENCES else 0):
            begun = time.perf_counter()
            programs.run(rows)
            self.alone.append(time.perf_counter() - begun)


def measure(world: World, ids: np.ndarray, *, rounds: int) -> dict:
    """Return the medians of both."""
    config = EngineConfig(max_sequences=SEQUENCES, cache_tokens=SEQUENCES * (PROMPT_TOKENS + 2 * rounds))
    prompts = ids[: SEQUENCES * PROMPT_TOKENS].reshape(SEQUENCES, PROMPT_TOKENS)
    with world.engine(config) as engine:
        engine.warm_up()
        watch = Watch(engine)
        for i, prompt in enumerate(prompts):
            request = GenerationRequest(prompt=prompt, max_new_tokens=rounds)
            engine.submit(request, watch.of_any if i else watch.of_first)
        for _ in prompts:
            watch.finished.acquire()
    of_round, step = statistics.median(watch.of_round), statistics.median(watch.alone)
    return {
        "sequences": SEQUENCES,
        "prompt_tokens": PROMPT_TOKENS,
        "rounds": len(watch.of_round),
        "steps_alone": len(watch.alone),
        "milliseconds_of_a_round": 1e3 * of_round,
        "milliseconds_of_a_step_alone": 1e3 * step,
        "overhead": of_round / step - 1,
    }


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, metavar="FOLDER|random")
    parser.add_argument("--rounds", type=int, default=256)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folder = random_model(Path(work) / "random", RANDOM) if asked.model == "random" else Path(asked.model)
        world = rw.load(folder)
    ids = np.random.default_rng(0).integers(5, world.prompts.tokenizer.size, SEQUENCES * PROMPT_TOKENS)
    record = {
        "command": shlex.join(["python", "benchmarks/engine_overhead.py", *sys.argv[1:]]),
        "versions": versions("ringworld", "jax", "jaxlib", "numpy"),
        "machine": machine(),
        "model": Path(asked.model).name,
        "compute": "float32",
        "result": measure(world, ids.astype(np.int32), rounds=asked.rounds),
    }
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
