"""A preset of one's own: an importable function that returns a run.

ringworld train --preset examples.own_preset:wider --data EXAMPLES --out OUT
python examples/own_preset.py EXAMPLES OUT
"""

import sys
from dataclasses import replace

import ringworld as rw


def wider() -> rw.RunConfig:
    """The smoke preset with a wider model, and one stage that is longer than its last."""
    run = rw.presets.smoke()
    last = run.training.stages[-1]
    stage = replace(last, name="longer", context_tokens=2 * last.context_tokens, rope_base=1e6)
    return replace(
        run,
        model=replace(run.model, embed=48, mlp=96),
        training=replace(run.training, stages=(stage,)),
    )


if __name__ == "__main__":
    print(rw.train(wider(), data=sys.argv[1], out=sys.argv[2], evaluate="never"))
