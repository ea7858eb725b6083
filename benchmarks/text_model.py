"""A real text model beside transformers: prefill, decoding, and what smaller weights cost.

    make smollm2 parity
    python benchmarks/text_model.py --model models/smollm2-135m --text BOOK.txt \
        > benchmarks/results/text_model_cpu.json
    python benchmarks/text_model.py --model models/smollm2-135m --text BOOK.txt --quality-only

Each subject is a process of its own, and all run in turn, several rounds; a time is the least of all rounds.
The peer is transformers on torch, with the same weights, cores and prompts. Nats are over the same tokens, in
eight windows of 2,048 that are spread evenly over the text. Quality alone needs no quiet machine and no peer.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ringworld.core.origin import machine, versions

PROMPTS, NEW_TOKENS, ASKED = (2048, 8191), 128, 32
SUBJECTS = ("float32", "bfloat16", "int8", "transformers")
WINDOWS, WINDOW_TOKENS = 8, 2048


def ours(model: Path, weights: str, text: str, *, timed: bool) -> dict:
    """Measure the model with its weights kept in a type; computing is float32."""
    import jax
    import numpy as np

    import ringworld as rw
    from ringworld.model.config import Execution

    jax.numpy.zeros(1).block_until_ready()
    world = rw.load(model, weights=weights, execution=Execution(compute="float32"))
    leaves = jax.block_until_ready(jax.tree.leaves(world.scorer.weights))
    ids = world.prompts.text(text)
    assert len(ids) >= WINDOWS * WINDOW_TOKENS, "the text is too short"

    def generate(prompt: int, new: int) -> None:
        (made,) = world.generator.generate([np.asarray(ids[:prompt])], max_new_tokens=new)
        assert len(made.tokens) == new

    starts = np.linspace(0, len(ids) - WINDOW_TOKENS, WINDOWS + 2, dtype=int)[1:-1]
    nats = np.concatenate(
        [world.scorer.losses(ids[start : start + WINDOW_TOKENS]) for start in starts]
    ).mean()
    quality = {
        "weight_bytes": sum(leaf.nbytes for leaf in leaves),
        "nats_a_token": float(nats),
        "perplexity": float(np.exp(nats)),
    }
    return quality | times(generate) if timed else quality


def theirs(model: Path, text: str) -> dict:
    """Measure transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(os.cpu_count() or 1)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="sdpa")
    network = network.eval()
    ids = AutoTokenizer.from_pretrained(model)(text, return_tensors="pt").input_ids

    @torch.inference_mode()
    def generate(prompt: int, new: int) -> None:
        made = network.generate(
            ids[:, :prompt], max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0
        )
        assert made.shape[1] == prompt + new

    return times(generate)


def times(generate: Callable[[int, int], None]) -> dict:
    """Return seconds of reading each prompt, and of 128 tokens after a short one; each is compiled before."""

    def seconds(prompt: int, new: int) -> float:
        begun = time.perf_counter()
        generate(prompt, new)
        return time.perf_counter() - begun

    for prompt in PROMPTS:
        generate(prompt, 1)
    generate(ASKED, 1 + NEW_TOKENS)
    found = {f"prefill_{prompt}_seconds": min(seconds(prompt, 1) for _ in range(2)) for prompt in PROMPTS}
    one = min(seconds(ASKED, 1) for _ in range(3))
    return found | {
        f"decode_{NEW_TOKENS}_seconds": min(seconds(ASKED, 1 + NEW_TOKENS) for _ in range(3)) - one
    }


def main() -> None:
    """Measure every subject in turn and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quality-only", action="store_true", help="no times, and no transformers")
    parser.add_argument("--subject", choices=SUBJECTS)
    asked = parser.parse_args()
    text = asked.text.read_text()
    if asked.subject:
        if asked.subject == "transformers":
            found = theirs(asked.model, text[: 8 * max(PROMPTS)])
        else:
            timed = not asked.quality_only
            found = ours(asked.model, asked.subject, text, timed=timed)
        print(json.dumps(found))
        return
    results: dict[str, dict] = {subject: {} for subject in SUBJECTS[: 3 if asked.quality_only else None]}
    for _ in range(1 if asked.quality_only else asked.rounds):
        for subject, best in results.items():
            command = [sys.executable, *sys.argv, "--subject", subject]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            for name, value in json.loads(done.stdout.splitlines()[-1]).items():
                best[name] = min(best.get(name, value), value)
            print(subject, best, file=sys.stderr, flush=True)
    packages = ("ringworld", "jax", "jaxlib", *(() if asked.quality_only else ("torch", "transformers")))
    record = {
        "command": shlex.join(["python", "benchmarks/text_model.py", *sys.argv[1:]]),
        "versions": versions(*packages),
        "machine": machine(),
        "model": asked.model.name,
        "text": asked.text.name,
        "tokens": WINDOWS * WINDOW_TOKENS,
        "results": results,
    }
    if peer := results.get("transformers"):
        record["times_as_fast_as_transformers"] = {
            subject: {name: peer[name] / found[name] for name in peer} for subject, found in results.items()
        }
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
