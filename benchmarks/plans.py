"""What libtpu's compiler says of the paper's stages at full size, for slices that are not there.

    pip install '.[tpu]'
    python benchmarks/plans.py                     # all of them, an hour or two of one core
    python benchmarks/plans.py --only lwm_chat_7b  # those whose command has these words
    python benchmarks/plans.py --missing           # those that the file lacks

Each is what `ringworld plan ... --json` prints of one stage, and takes the place of what the same command
printed before in `benchmarks/results/plan.json` as soon as it is there. The script ends at a stage that does
not fit, or whose step gathers more than the weights, in the compute type, in each of three passes: the
activations of a layer along a million tokens are more than these.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from ringworld.core.files import write_text_atomic
from ringworld.model.flops import parameters
from ringworld.presets.run import load_preset

FILE = Path(__file__).parent / "results" / "plan.json"
RUNS = (
    ("lwm_7b", "v4:8x8x8"),
    ("lwm_chat_7b", "v4:8x8x8"),
    ("lwm_text_7b", "v5p:4x8x8"),
    ("lwm_text_7b", "v4:4x8x8"),
)
LONGEST = {"v5p:4x8x8": 2**24, "v4:4x8x8": 2**23}
"""One sequence a step over a ring of all chips: powers of two that leave a tenth by arithmetic."""
POLICIES = ("offload", "all")
"""Besides the "layer" of the presets, at 1M tokens."""
PASSES, BFLOAT16_BYTES = 3, 2


def commands() -> list[str]:
    """Return every command, a stage each."""
    one_a_stage = [
        f"ringworld plan {name} --topology {topology} --stages {stage.name} --json"
        for name, topology in RUNS
        for stage in load_preset(name).training.stages
    ]
    last = "--training.stages.4"
    mesh = " ".join(f"{last}.mesh.{axis} 1" for axis in ("fsdp", "tensor"))
    longest = [
        f"ringworld plan lwm_text_7b --topology {topology} --stages 1M --json {last}.context-tokens {tokens} "
        f"{last}.batch-sequences 1 {last}.accumulation-steps 1 {mesh}"
        for topology, tokens in LONGEST.items()
    ]
    policies = [
        f"ringworld plan lwm_text_7b --topology v5p:4x8x8 --stages 1M --json --execution.remat {remat}"
        for remat in POLICIES
    ]
    return one_a_stage + longest + policies


def planned(command: str) -> dict[str, Any]:
    """Run a command, and return what it prints."""
    program = [sys.executable, "-m", *shlex.split(command)]
    made = subprocess.run(program, check=True, stdout=subprocess.PIPE).stdout
    return json.loads(made)


def check(plan: dict[str, Any]) -> None:
    """Refuse a plan that breaks what is claimed of it."""
    assert plan["fits"], plan["command"]
    model = load_preset(shlex.split(plan["command"])[2]).model
    for stage in plan["stages"]:
        gathered = sum(one["bytes_per_chip"] for one in stage["collectives"] if one["kind"] == "all-gather")
        of_a_pass = BFLOAT16_BYTES * parameters(model) / stage["mesh"]["tensor"]
        assert gathered < PASSES * stage["accumulation_steps"] * of_a_pass, (plan["command"], gathered)


def main() -> None:
    """Plan what was asked for, and keep each as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="words of a command")
    parser.add_argument("--missing", action="store_true", help="only what the file lacks")
    asked, known = parser.parse_args(), commands()
    kept = {one["command"]: one for one in json.loads(FILE.read_text())}
    for command in known:
        if asked.only in command and not (asked.missing and command in kept):
            print(command, file=sys.stderr, flush=True)
            kept[command] = planned(command)
            if kept.keys() >= set(known):
                kept = {one: kept[one] for one in known}
            write_text_atomic(FILE, json.dumps(list(kept.values()), indent=2) + "\n")
            check(kept[command])


if __name__ == "__main__":
    main()
