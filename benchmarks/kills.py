"""Kills of training at random moments: is every loss of the run, resumed after each, that of an unbroken one?

    python benchmarks/kills.py --processes 1 --kills 50 > benchmarks/results/kills_1.json
    python benchmarks/kills.py --processes 2 --kills 10 --steps 100 > benchmarks/results/kills_2.json

The run is `ringworld.train` as a user calls it, with a checkpoint every few steps. SIGKILL comes after a time
drawn evenly from zero to twice what a start takes, so that it falls into starting, resuming, steps and saves
alike; of two processes each third then waits until a save has begun, since few moments of theirs are in one.
Of two processes one is killed and, as schedulers do, the other soon after. Rows of metrics are
compared with those of the same run left alone, to the bit but for times; so are the weights that it ends
with. A run that is finished before enough kills came is begun again in a new folder.
"""

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ringworld import presets
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.origin import machine, versions
from ringworld.core.processes import INDEX
from ringworld.presets.run import RunConfig
from ringworld.training.metrics import METRICS_FILE, TIMED

CONTEXT_TOKENS, SEQUENCES, CHECKPOINT_EVERY_STEPS = 128, 2, 5
GRACE_SECONDS = 1.0


def run_of(processes: int, steps: int) -> RunConfig:
    """Return a small model of text, on a device of each process."""
    smoke = presets.smoke()
    stage = replace(
        smoke.training.stages[-1],
        name="only",
        context_tokens=CONTEXT_TOKENS,
        batch_sequences=SEQUENCES,
        steps=steps,
        mesh=MeshConfig(ring=processes),
    )
    training = replace(smoke.training, stages=(stage,), checkpoint_every_steps=CHECKPOINT_EVERY_STEPS)
    model = replace(smoke.model, vision_vocab=0, text_vocab=300)
    return replace(smoke, frame_tokenizer=None, frame_training=None, model=model, training=training)


def write_data(root: Path, run: RunConfig) -> None:
    """Write texts, and the examples that are made of them."""
    import ringworld as rw

    (root / "texts").mkdir()
    for index in range(12):
        text = f"The river {index} is {7 * index} miles long, and flows into the next one. " * (4 + index)
        (root / "texts" / f"{index}.txt").write_text(text)
    rw.train_tokenizer(run, texts=root / "texts", out=root / "tokenizer")
    rw.prepare(run, texts=root / "texts", tokenizer=root / "tokenizer", out=root / "examples")


class Runs:
    """Starts, kills and reads runs of some number of processes in one folder."""

    def __init__(self, root: Path, processes: int, steps: int) -> None:
        self.root, self.processes, self.steps = root, processes, steps

    def start(self, out: str) -> list[subprocess.Popen[bytes]]:
        """Start the processes of a run."""
        with socket.create_server(("", 0)) as listener:
            port = listener.getsockname()[1]
        shared = os.environ | {"RINGWORLD_COMPILATION_CACHE": str(self.root / "programs")}
        if self.processes > 1:
            shared |= {
                "RINGWORLD_COORDINATOR": f"127.0.0.1:{port}",
                "RINGWORLD_PROCESSES": str(self.processes),
            }
        code = "import sys; sys.argv[0] = 'kills'; import kills; kills.train()"
        command = [sys.executable, "-c", code, str(self.root), out, str(self.processes), str(self.steps)]
        folder = Path(__file__).parent
        return [
            subprocess.Popen(
                command,
                env=shared | ({INDEX: str(index)} if self.processes > 1 else {}),
                cwd=folder,
                stdout=subprocess.DEVNULL,
                stderr=(self.root / f"{out}.{index}.log").open("ab"),
            )
            for index in range(self.processes)
        ]

    def finish(self, out: str) -> float:
        """Run to the end, and return the seconds until the first row."""
        begun, first = time.perf_counter(), 0.0
        started = self.start(out)
        while any(process.poll() is None for process in started):
            if not first and (self.root / out / METRICS_FILE).exists():
                first = time.perf_counter() - begun
            time.sleep(0.02)
        assert all(process.returncode == 0 for process in started), (self.root / f"{out}.0.log").read_text()
        return first

    def rows(self, out: str) -> list[dict[str, Any]]:
        """Read the whole rows, without what was timed."""
        path = self.root / out / METRICS_FILE
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [{k: v for k, v in json.loads(line).items() if k not in TIMED} for line in lines]

    def saves(self, out: str, *, since: float) -> bool:
        """Return whether a checkpoint that was begun since a time has no name yet; older ones are remains."""
        for path in (self.root / out).glob("checkpoints/*tmp*"):
            with suppress(FileNotFoundError):  # it has its name now
                if path.stat().st_ctime > since:
                    return True
        return False

    def weights(self, out: str) -> str:
        """Return the fingerprint of the weights that a run ended with."""
        return json.loads((self.root / out / "models/only/origin.json").read_text())["identity"]["weights"]


def train() -> None:
    """Train in this process, as `Runs.start` asks."""
    import ringworld as rw

    root, out, processes, steps = sys.argv[1:]
    run = run_of(int(processes), int(steps))
    rw.train(run, data=Path(root) / "examples", out=Path(root) / out, evaluate="never")


def measure(root: Path, *, processes: int, kills: int, steps: int) -> dict[str, Any]:
    """Kill a run many times, and compare it with one that was left alone."""
    runs, chance = Runs(root, processes, steps), random.Random(0)
    alone = f"alone{processes}"
    runs.finish(alone)  # which compiles
    start_seconds = runs.finish(f"start{processes}")
    expected, done, finished = runs.rows(alone), 0, 0
    fell: dict[str, int] = {"before a new row": 0, "during a save": 0, "else": 0}
    differing = different_weights = resumed = 0
    while done < kills or finished == 0:
        out = f"killed{processes}-{finished}"
        while True:
            if done >= kills:
                runs.finish(out)
                break
            before, since, started = len(runs.rows(out)), time.time(), runs.start(out)
            time.sleep(chance.uniform(0, 2 * start_seconds))
            if processes > 1 and done % 3 == 2:
                while not runs.saves(out, since=since) and all(one.poll() is None for one in started):
                    time.sleep(0.001)
            if any(process.poll() is not None for process in started):
                assert all(process.wait() == 0 for process in started), (root / f"{out}.0.log").read_text()
                break
            started[chance.randrange(processes)].send_signal(signal.SIGKILL)
            time.sleep(GRACE_SECONDS if processes > 1 else 0)
            for process in started:
                process.kill()
                process.wait()
            done += 1
            came = "else" if len(runs.rows(out)) > before else "before a new row"
            fell["during a save" if runs.saves(out, since=since) else came] += 1
            print(f"{processes}: kill {done}, {len(runs.rows(out))} rows", file=sys.stderr, flush=True)
        rows = runs.rows(out)
        differing += sum(a != b for a, b in zip(rows, expected)) + abs(len(rows) - len(expected))
        different_weights += runs.weights(out) != runs.weights(alone)
        resumed += (root / f"{out}.0.log").read_text().count("compiling") - 1
        finished += 1
    return {
        "processes": processes,
        "kills": done,
        "fell": fell,
        "steps": len(expected),
        "runs_finished": finished,
        "resumed_within_the_stage": resumed,
        "rows_that_differ": differing,
        "weights_that_differ": different_weights,
        "seconds_to_the_first_row": round(start_seconds, 2),
    }


def main() -> None:
    """Measure, and print the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=200, help="of one run")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder), run_of(1, 2))
        results = measure(Path(folder), processes=asked.processes, kills=asked.kills, steps=asked.steps)
    report = {
        "command": f"python benchmarks/kills.py {' '.join(sys.argv[1:])}",
        "versions": versions(),
        "machine": machine(),
        "shape": {
            "context_tokens": CONTEXT_TOKENS,
            "sequences": SEQUENCES,
            "checkpoint_every_steps": CHECKPOINT_EVERY_STEPS,
        },
        "results": results,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
