"""The CPU table of docs/attention.md: ringworld's attention beside its peers, all in one run.

    runs/peers/ringattention/bin/python    an environment with benchmarks/peers/ringattention_jax.txt
    runs/peers/torch/bin/python            an environment with torch (2.13.0, CPU build) and numpy

    .venv/bin/python benchmarks/attention_cpu.py

It takes some minutes on two otherwise idle cores, and writes
`benchmarks/results/attention_cpu.json` and `attention_cpu.png`.
"""

import io
import json
import shlex
import subprocess
import sys
from pathlib import Path

from matplotlib.figure import Figure

BENCHMARKS = Path(__file__).resolve().parent
RESULTS = BENCHMARKS / "results"
TORCH = "runs/peers/torch/bin/python benchmarks/peers/torch_sdpa.py"
RINGATTENTION = "runs/peers/ringattention/bin/python benchmarks/peers/ringattention_jax.py"
EIGHT = "--devices 8"
ROWS = (
    ("8 devices, one document", f"{EIGHT} --documents 1", RINGATTENTION),
    ("8 devices, one document, ring", f"{EIGHT} --documents 1 --strategy ring", RINGATTENTION),
    ("8 devices, 16 documents", f"{EIGHT} --documents 16", RINGATTENTION),
    ("8 devices, 16 documents, ring", f"{EIGHT} --documents 16 --strategy ring", RINGATTENTION),
    (
        "8 devices, 16 documents of random lengths",
        f"{EIGHT} --documents 16 --lengths random",
        RINGATTENTION,
    ),
    ("one device", "--block-q-tokens 512", TORCH),
    ("one device, blocks of 256", "", TORCH),
    ("one device, forward", "--no-backward --block-q-tokens 512", TORCH),
    ("one device, 16 documents", "--documents 16", TORCH),
)


def main() -> None:
    """Measure every row, and write the results."""
    measured = []
    for title, options, peer in ROWS:
        words = ["bench", "attention", *shlex.split(options), "--repeats", "3", "--rounds", "3"]
        words += ["--peers", peer, "--json"]
        command = [sys.executable, "-m", "ringworld", *words]
        ended = subprocess.run(command, cwd=BENCHMARKS.parent, stdout=subprocess.PIPE, text=True, check=True)
        row = {"title": title} | json.loads(ended.stdout)
        print(_table_row(row), flush=True)
        measured.append(row)
        # A later row may fail; what was measured stays.
        (RESULTS / "attention_cpu.json").write_text(json.dumps(measured, indent=2) + "\n")
    (RESULTS / "attention_cpu.png").write_bytes(_picture(measured))


def _table_row(row: dict) -> str:
    """Return a line of the table of docs/attention.md."""
    (peer,) = row["peers"]
    memory = f"{1 / peer['times_the_bytes']:.2f}" if "times_the_bytes" in peer else ""
    ours, theirs = (f"{seconds:.3g} s" for seconds in (row["seconds"], peer["seconds"]))
    cells = row["title"], ours, f"{theirs}, {peer['name']}", f"{peer['times_the_seconds']:.2f}", memory
    return f"| {' | '.join(cells)} |"


def _picture(measured: list[dict]) -> bytes:
    figure = Figure(figsize=(8, 0.6 * len(measured) + 0.8), layout="constrained")
    axes = figure.subplots()
    for n, row in enumerate(measured):
        (peer,) = row["peers"]
        axes.barh(n - 0.2, row["seconds"], height=0.38, color="#0072b2")
        axes.barh(n + 0.2, peer["seconds"], height=0.38, color="#b8bcc4")
        axes.text(row["seconds"], n - 0.2, f"  {row['seconds']:.3g} s", va="center", fontsize=8)
        label = f"  {peer['seconds']:.3g} s, {peer['name']}: {peer['times_the_seconds']:.1f} x"
        axes.text(peer["seconds"], n + 0.2, label, va="center", fontsize=8)
    axes.set_yticks(range(len(measured)), [row["title"] for row in measured], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 2 * max(peer["seconds"] for row in measured for peer in row["peers"]))
    axes.set_xlabel("seconds for 8,192 tokens, 8 heads of 64, float32; blue: ringworld", fontsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130)
    return stream.getvalue()


if __name__ == "__main__":
    main()
