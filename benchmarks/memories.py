"""Seconds to the first token about a document: read, read before, and kept by another process.

    make smollm2
    python benchmarks/memories.py models/smollm2-135m > benchmarks/results/memories_cpu.json

The document is this repository's own pages, cut at so many tokens. Each process warms its engine up with
other texts, so that nothing is compiled while it is measured.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ringworld.core.origin import machine, versions

TOKENS, NEW_TOKENS, REPEATS = 4096, 32, 5
QUESTIONS = ("What is this about?", "Which words are explained?")


def first_token(engine: Any, world: Any, messages: list, *, question: str) -> dict:
    """Ask, and return the seconds to the first token, how many tokens were found, and the ids."""
    from ringworld.inference.engine.sequence import GenerationRequest
    from ringworld.text.templates import Message, joined

    prompt = world.template.encode(joined(messages, [Message(role="user", content=(question,))]))
    begun = time.perf_counter()
    pieces = engine.stream(GenerationRequest(prompt=prompt, max_new_tokens=NEW_TOKENS))
    first = next(pieces)
    seconds = time.perf_counter() - begun
    every = [first, *pieces]
    return {
        "prompt_tokens": len(prompt),
        "reused_tokens": every[-1].reused_tokens,
        "first_token_seconds": seconds,
        "ids": [piece.token.id for piece in every if piece.token],
    }


def opened(model: Path) -> tuple[Any, Any]:
    """Return a model and its engine, compiled."""
    import ringworld as rw
    from ringworld.inference.config import EngineConfig

    world = rw.load(model)
    engine = world.engine(EngineConfig(max_sequences=1, cache_tokens=3 * TOKENS))
    engine.warm_up()
    return world, engine


def read_and_keep(model: Path, folder: Path) -> dict:
    """Ask twice about a document, and keep it."""
    from ringworld.text.templates import Message

    world, engine = opened(model)
    text = "\n\n".join(path.read_text() for path in sorted(Path("docs").rglob("*.md")))
    words = world.prompts.tokenizer
    messages = [Message(role="user", content=(words.decode(words.encode(text)[:TOKENS]),))]
    with engine:
        read = first_token(engine, world, messages, question=QUESTIONS[0])
        again = [first_token(engine, world, messages, question=QUESTIONS[1]) for _ in range(REPEATS)]
        begun = time.perf_counter()
        memory = world.keep(messages, folder, engine=engine)
        kept = time.perf_counter() - begun
    return {
        "first_question": read,
        "second_question": min(again, key=lambda each: each["first_token_seconds"]),
        "keep_seconds": kept,
        "memory_tokens": len(memory.ids),
        "memory_bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    }


def recall_and_ask(model: Path, folder: Path) -> dict:
    """Ask about a document that another process kept."""
    world, engine = opened(model)
    with engine:
        world.generator.remembering  # noqa: B018 (reads all weights once, however many memories follow)
        begun = time.perf_counter()
        memory = world.recall(folder, engine=engine)
        seconds = time.perf_counter() - begun
        asked = first_token(engine, world, list(memory.messages), question=QUESTIONS[1])
    return {"recall_seconds": seconds, "second_question": asked}


def main() -> None:
    """Measure in two processes, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--step", choices=("keep", "recall"))
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    if asked.step:
        step = read_and_keep if asked.step == "keep" else recall_and_ask
        print(json.dumps(step(asked.model, asked.folder)))
        return
    with tempfile.TemporaryDirectory() as work:
        made = {}
        for step in ("keep", "recall"):
            command = [
                sys.executable,
                __file__,
                str(asked.model),
                "--step",
                step,
                "--folder",
                f"{work}/memory",
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            made[step] = json.loads(done.stdout)
    first, second = made["keep"]["first_question"], made["keep"]["second_question"]
    recalled = made["recall"]["second_question"]
    same = recalled.pop("ids") == second.pop("ids")
    first.pop("ids")
    record = {
        "command": f"python benchmarks/memories.py {asked.model.name}",
        "versions": versions("ringworld", "jax", "jaxlib", "numpy"),
        "machine": machine(),
        "model": asked.model.name,
        "results": made,
        "second_against_first": first["first_token_seconds"] / second["first_token_seconds"],
        "recalled_against_first": first["first_token_seconds"]
        / (made["recall"]["recall_seconds"] + recalled["first_token_seconds"]),
        "same_answer_after_recall": same,
    }
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
