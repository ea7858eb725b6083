"""How many small changes of the core the tests notice: mutation testing with mutmut, on a sample.

    make mutants                                     # 100 mutants of the whole core
    make mutants ONLY=data/packing.py SAMPLE=1000    # all of one module, by tests/data/test_packing.py
    make mutants ONLY=attention/merge.py TESTS=tests/attention

A copy of the tree under build/mutation is mutated, never the tree itself. The output is the mutants that
survived, then one line a module; `mutmut show NAME` in the copy prints a change. mutmut skips functions that
have a decorator. A timeout is an endless loop only where the machine has nothing else to do.
"""

import argparse
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
COPY = ROOT / "build" / "mutation"
CORE = ["attention", "data/packing.py", "model", "training"]
MUTMUT = [Path(sys.executable).with_name("mutmut")]
# XLA's threads do not survive a fork, so the process that forks never runs a test. It imports them all, which
# the import hook of jaxtyping would have to precede: shapes and types are not checked here.
CONFIG = """
[tool.mutmut]
source_paths = ["src"]
only_mutate = {mutated}
pytest_add_cli_args = ["-o", "addopts=--import-mode=importlib"]
pytest_add_cli_args_test_selection = {tests}
process_isolation = "forkserver"
timeout_multiplier = 5.0
timeout_constant = 12.0
use_git_change_detection = false
"""


def main() -> None:
    """Mutate, draw a sample, run the tests that reach it, and print the score."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", default=CORE, help="modules or areas below src/ringworld")
    parser.add_argument(
        "--tests", nargs="*", help="where their tests are; by default the tests that mirror them"
    )
    parser.add_argument("--sample", type=int, default=100, help="number of mutants")
    parser.add_argument("--seed", type=int, default=0, help="decides which")
    asked = parser.parse_args()
    only = asked.only or CORE
    copy_tree(only, tests=asked.tests or [test_of(Path(path)) for path in only])
    # Makes the mutants, runs each test once to see what it reaches, and fails: no mutant has this name.
    failed = subprocess.run(
        [*MUTMUT, "run", "none"], cwd=COPY, check=False, stderr=subprocess.PIPE, text=True
    )
    names = list(statuses())
    if "nothing matches" not in failed.stderr or not names:
        sys.exit(failed.stderr)
    sample = random.Random(asked.seed).sample(names, min(asked.sample, len(names)))
    subprocess.run([*MUTMUT, "run", *sample], cwd=COPY, check=True)
    found = statuses()
    report({name: found[name] for name in sample}, of=len(names))


def copy_tree(only: list[str], *, tests: list[str]) -> None:
    """Copy what the tests need to `COPY`, and configure mutmut there."""
    shutil.rmtree(COPY, ignore_errors=True)
    for folder in ("src", "tests"):
        shutil.copytree(ROOT / folder, COPY / folder, ignore=shutil.ignore_patterns("__pycache__"))
    mutated = [
        f"src/ringworld/{path}" if path.endswith(".py") else f"src/ringworld/{path}/*" for path in only
    ]
    config = CONFIG.format(mutated=mutated, tests=tests).replace("'", '"')
    (COPY / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text() + config)


def test_of(path: Path) -> str:
    """Return the tests of a module or an area, which mirror `src`."""
    return str(Path("tests") / (path.with_name(f"test_{path.name}") if path.suffix else path))


def statuses() -> dict[str, str]:
    """Return what became of each mutant, by name: killed, survived, timeout, no tests, not checked, ..."""
    lines = subprocess.run(
        [*MUTMUT, "results", "--all", "true"], cwd=COPY, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    return dict(line.strip().rsplit(": ", 1) for line in lines if "__mutmut_" in line)


def report(sample: dict[str, str], *, of: int) -> None:
    """Print the survivors, then one line a module."""
    counts: dict[str, Counter[str]] = {}
    for name, status in sorted(sample.items()):
        counts.setdefault(name.rpartition(".")[0], Counter())[status] += 1
        if status != "killed":
            print(f"{status}: {name}")
    for module, count in counts.items():
        print(f"{module}: " + ", ".join(f"{number} {status}" for status, number in count.most_common()))
    total = sum(counts.values(), Counter())
    print(f"{total['killed']} of {len(sample)} killed, drawn from {of}; {total['timeout']} timed out")


if __name__ == "__main__":
    main()
