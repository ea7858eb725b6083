"""Questions that `ringworld serve` writes for `ringworld make-qa`, which is killed on the way and repeated.

    python benchmarks/make_qa.py MODEL BOOK --passages 24 --out benchmarks/results/make_qa.json

MODEL is a model folder, BOOK a text. A server of MODEL is asked for a question about each of so many passages
of BOOK, one attempt each. Once a third of the replies is kept, the command and all its processes are killed.
The same command then runs to its end, and again a third time. What counts is how often the server was asked:
for a passage whose reply was kept never again, so that the second run asks for what is missing, and the third
for nothing. A small model writes little that is usable: `--passage-tokens 100` is easier and quicker than the
1,000 of the paper. Where anything is usable, the conversations are then prepared.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from served import free_port, ringworld, served

from ringworld.artifacts.tokenizers import Tokenizers
from ringworld.core.files import write_json_atomic
from ringworld.core.origin import machine, versions
from ringworld.data.config import PrepareConfig
from ringworld.data.prepare import prepare
from ringworld.data.store import read_examples

CHARACTERS_A_TOKEN = 4.3
CHAT = re.compile(r"^ringworld_http_requests_total\{[^}]*chat/completions[^}]*\} (\S+)$", re.MULTILINE)
SETTLED_SECONDS = 2.0


def asked(port: int) -> int:
    """Return how many requests for a reply the server has answered or given up."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
        return int(sum(map(float, CHAT.findall(response.read().decode()))))


def kept(out: Path) -> int:
    """Return how many replies are on disk."""
    path = out / "replies.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def run(command: list[str]) -> dict[str, Any]:
    """Run to the end, and return how it ended and how long it took."""
    begun = time.monotonic()
    code = subprocess.run(command, stdout=subprocess.DEVNULL).returncode
    return {"exit_code": code, "seconds": round(time.monotonic() - begun, 1)}


def kill_at(command: list[str], out: Path, replies: int) -> None:
    """Kill a run once so many replies are kept."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    while kept(out) < replies:
        if process.poll() is not None:
            raise SystemExit("the run ended before it could be killed")
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(SETTLED_SECONDS)  # in which the server notices


def learned(out: Path, model: Path, folder: Path) -> dict[str, Any]:
    """Prepare the conversations, and return how much of them carries loss, and what does in the first."""
    words, config = Tokenizers.load(model), PrepareConfig(held_out_fraction=0.0)
    prepare(
        texts=(out / "long_qa",),
        out=folder / "examples",
        tokenizer=words.text_tokenizer,
        vocabulary=words.vocabulary(text_vocab=words.text_tokenizer.size),
        config=config,
    )
    examples = list(read_examples(folder / "examples", split="train"))
    tokens, with_loss = sum(map(len, examples)), sum(int(one.loss.sum()) for one in examples)
    first = examples[0]
    return {
        "examples": len(examples),
        "longest_tokens": max(map(len, examples)),
        "part_with_loss": with_loss / tokens,
        "with_loss_in_the_first": words.text_tokenizer.decode(first.tokens[first.loss].tolist()),
    }


def main() -> None:
    """Ask, kill, ask again, and print the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("book", type=Path)
    parser.add_argument("--passages", type=int, default=24)
    parser.add_argument("--passage-tokens", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        out, port = folder / "qa", free_port()
        characters = int(options.passages * options.passage_tokens * CHARACTERS_A_TOKEN)
        (folder / "book.txt").write_text(options.book.read_text(encoding="utf-8-sig")[:characters])
        command = [sys.executable, "-m", "ringworld", "make-qa", "--texts", str(folder / "book.txt")]
        command += ["--tokenizer", str(options.model), "--out", str(out), "--model", options.model.name]
        command += ["--address", f"http://127.0.0.1:{port}/v1", "--attempts", "1", "--max-reply-tokens", "48"]
        command += ["--held-out-fraction", "0", "--requests-at-once", "2"]
        command += ["--passage-tokens", str(options.passage_tokens), "--context-tokens"]
        command += [str(many * options.passage_tokens) for many in (4, 16)]
        with served(ringworld(options.model, port=port), port=port, log=folder / "log"):
            kill_at(command, out, options.passages // 3)
            at_kill, answered = kept(out), asked(port)
            second = run(command) | {"replies": kept(out) - at_kill, "asked": asked(port) - answered}
            after, answered = kept(out), asked(port)
            third = run(command) | {"replies": kept(out) - after, "asked": asked(port) - answered}
        report = json.loads((out / "report.json").read_text()) if (out / "report.json").exists() else {}
        result = {
            "command": f"python benchmarks/make_qa.py MODEL BOOK --passages {options.passages} "
            f"--passage-tokens {options.passage_tokens}",
            "model": options.model.name,
            "machine": machine(),
            "versions": versions("ringworld", "jax", "httpx2"),
            "kept_at_the_kill": at_kill,
            "second_run": second,
            "third_run": third,
            "replies": after,
            "questions": report.get("questions", 0),
            "rejected": report.get("rejected", {}),
            "contexts": report.get("contexts", []),
            "prepared": learned(out, options.model, folder) if report else {},
        }
    print(json.dumps(result, indent=2))
    if options.out:
        write_json_atomic(options.out, result)


if __name__ == "__main__":
    main()
