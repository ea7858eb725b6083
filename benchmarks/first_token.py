"""Seconds from starting Python to the first token of a text model, with the compilation cache cold and warm.

    make smollm2
    python benchmarks/first_token.py --chat models/smollm2-135m > benchmarks/results/first_token_cpu.json

Weights are random. Each start is a fresh process, which calls `ringworld.load` on a model folder, as a user's
does; what loading adds to the peak of its memory stands beside the bytes of the weights. With `--chat` the
program itself is started twice with a real model, too, and asked a question of two lines.
A token's time is the least of several calls, and the seconds of the processor stand beside those of the
clock, so that what else the machine does can be told apart.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ringworld.core.origin import machine, versions

_STARTED = time.perf_counter()

SHAPES = {
    "quickstart": dict(layers=4, embed=256, heads=4, kv_heads=2, head=64, mlp=704, text_vocab=768),
    "smollm2_135m": dict(layers=30, embed=576, heads=9, kv_heads=3, head=64, mlp=1536, text_vocab=49152),
}
PROMPT_TOKENS, MORE_TOKENS, REPEATS = 32, 32, 5
QUESTION = (
    "I am going to Paris with two children in spring, for three days, and it may rain on one of them. "
    "Which museum, which park and which street would you show them, and in which order?"
)
"""Two lines of a terminal, but one of stdin."""


def start(folder: Path) -> None:
    """Load a model, complete a prompt, and print the seconds and the memory that each part took."""
    import jax
    import numpy as np

    import ringworld as rw
    from ringworld.core.memory import peak_memory_bytes

    jax.numpy.zeros(1).block_until_ready()
    imported, memory_before = time.perf_counter(), peak_memory_bytes()
    world = rw.load(folder)
    generator = world.generator
    weights = jax.block_until_ready(jax.tree.leaves(world.scorer.weights))
    loaded, memory_after = time.perf_counter(), peak_memory_bytes()
    prompt = np.arange(1, PROMPT_TOKENS + 1, dtype=np.int32)
    generator.generate([prompt], max_new_tokens=1)
    first, used = time.perf_counter(), time.process_time()

    def seconds(new_tokens: int) -> float:
        begun = time.perf_counter()
        (written,) = generator.generate([prompt], max_new_tokens=new_tokens)
        assert len(written.tokens) == new_tokens, "the end of text was drawn"
        return time.perf_counter() - begun

    seconds(MORE_TOKENS)
    again = min(seconds(1) for _ in range(REPEATS))
    more = min(seconds(MORE_TOKENS) for _ in range(REPEATS))
    print(
        json.dumps(
            {
                "import_seconds": imported - _STARTED,
                "load_seconds": loaded - imported,
                "generate_seconds": first - loaded,
                "start_to_first_token_seconds": first - _STARTED,
                "start_to_first_token_cpu_seconds": used,
                "weight_bytes": sum(leaf.nbytes for leaf in weights),
                "largest_tensor_bytes": max(leaf.nbytes for leaf in weights),
                "peak_bytes_of_loading": memory_after - memory_before,
                "milliseconds_a_token": 1e3 * (more - again) / (MORE_TOKENS - 1),
            }
        )
    )


def measure(shape: str, work: Path) -> dict:
    """Start twice in fresh processes with one new cache, and return what each printed."""
    from random_model import random_model

    from ringworld.model.config import Architecture
    from ringworld.model.flops import parameters

    architecture = Architecture(**SHAPES[shape])
    folder = random_model(work / shape, architecture)
    count = parameters(architecture)
    environment = os.environ | {"RINGWORLD_COMPILATION_CACHE": str(work / f"cache-{shape}")}
    command = [sys.executable, __file__, "--start", str(folder)]
    starts = []
    for name in ("cold", "warm"):
        begun = time.perf_counter()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert not done.stderr, done.stderr
        starts.append(
            {"cache": name} | json.loads(done.stdout) | {"whole_process_seconds": time.perf_counter() - begun}
        )
    return {"shape": SHAPES[shape], "parameters": count, "starts": starts}


def chat(model: Path, work: Path) -> dict:
    """Start `ringworld chat` twice with one new cache; time until the first character of an answer."""
    environment = os.environ | {"RINGWORLD_COMPILATION_CACHE": str(work / "cache-chat")}
    options = ["--model", str(model), "--max-new-tokens", "1"]
    starts = []
    for name in ("cold", "warm"):
        begun = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "-m", "ringworld", "chat", *options],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdin and process.stdout
            process.stdin.write(QUESTION + "\n")
            process.stdin.flush()
            shown = process.stdout.read(1)
            seconds = time.perf_counter() - begun
            _, said = process.communicate()
        assert shown and process.returncode == 0, said
        starts.append({"cache": name, "start_to_first_character_seconds": seconds, "said": said.strip()})
    return {"model": model.name, "question": QUESTION, "starts": starts}


def main() -> None:
    """Measure every shape and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--start", type=Path, metavar="MODEL")
    parser.add_argument("--chat", type=Path, metavar="MODEL", help="folder of a model that answers")
    asked = parser.parse_args()
    if asked.start:
        return start(asked.start)
    with tempfile.TemporaryDirectory() as work:
        results = {shape: measure(shape, Path(work)) for shape in SHAPES}
        if asked.chat:
            results["chat"] = chat(asked.chat, Path(work))
    record = {
        "command": shlex.join(["python", "benchmarks/first_token.py", *sys.argv[1:]]),
        "versions": versions("ringworld", "jax", "jaxlib", "numpy"),
        "machine": machine(),
        "compute": "float32",
        "prompt_tokens": PROMPT_TOKENS,
        "results": results,
    }
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
