"""Measure how much of a long text a model retrieves, by context length and depth.

python examples/measure_needles.py MODEL TEXT OUT
"""

import sys

import ringworld as rw
from ringworld.evaluation.config import EvaluationConfig
from ringworld.evaluation.needles import NeedleConfig

grid = NeedleConfig(context_tokens=(128, 256), depth_percents=(0.0, 100.0), max_new_tokens=8)
model, text, out = sys.argv[1:4]
evaluation = rw.evaluate(model, haystack=text, out=out, tasks=EvaluationConfig(tasks=(grid,)))
for result in evaluation.results:
    print(result.metric, dict(result.cell), result.value)
