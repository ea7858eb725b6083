"""What the quickstart finds and takes: needles before and after its extension, answers about clips, seconds.

    ringworld quickstart --out runs/quickstart
    python benchmarks/quickstart.py runs/quickstart > benchmarks/results/quickstart.json

Seconds are those of a machine that does nothing else. In a folder without a finished quickstart, the kept
model alone is extended, as the quickstart does it, and what the rest would say is left out.
"""

import argparse
import json
import shlex
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from ringworld.core.config import read_as, to_json
from ringworld.core.origin import machine, versions
from ringworld.core.results import Evaluation
from ringworld.quickstart.config import full
from ringworld.quickstart.extension import extend
from ringworld.report.schema import Metrics


def found(evaluation: Evaluation) -> dict[int, str]:
    """Return how many needles were found, of how many, at each length."""
    answers: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for one in evaluation.results:
        if one.task == "needles" and one.value is not None:
            answers[int(one.cell["context_tokens"])].append((one.value * one.count, one.count))
    return {
        length: f"{sum(right for right, _ in cells):.0f} of {sum(count for _, count in cells)}"
        for length, cells in sorted(answers.items())
    }


def of_all(metrics: Metrics) -> dict[str, Any]:
    """Return what a finished quickstart says besides."""
    asked = [one for one in metrics.questions if one.kind == "video"]
    seconds = {phase.name: round(phase.seconds, 1) for phase in metrics.phases}
    return {
        "answers_about_clips": f"{sum(one.correct for one in asked)} of {len(asked)}",
        "seconds": seconds | {"all": round(sum(seconds.values()), 1)},
    }


def main() -> None:
    """Extend the kept model unless that is done, and print everything as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of a quickstart")
    folder = parser.parse_args().folder
    extension = full().extension
    assert extension is not None
    evaluations = extend(extension, out=folder / "extension", devices=None)
    metrics = folder / "metrics.json"
    results = {
        "command": f"python {shlex.join(sys.argv)}",
        "versions": versions(),
        "machine": machine(),
        "found": {evaluation.name: found(evaluation) for evaluation in evaluations},
        **(of_all(read_as(Metrics, metrics)) if metrics.exists() else {}),
        "evaluations": to_json(evaluations),
    }
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
