"""World models of million-token video and language, trained with ring attention.

    import ringworld as rw

    world = rw.load("runs/quickstart/model")                    # a model with its tokenizers
    world.answer("What color is the shape?", video="clip.mp4")  # and complete, draw, score
    rw.attention(q, k, v, lengths=[900, 124])                   # the ring, as a function

Names are imported when they are first used: `import ringworld` imports no jax.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ringworld.core.version import __version__ as __version__

if TYPE_CHECKING:
    from ringworld import presets
    from ringworld.api.chat import chat
    from ringworld.api.convert import convert
    from ringworld.api.data import data_show, data_stats
    from ringworld.api.evaluate import evaluate
    from ringworld.api.generate import generate
    from ringworld.api.load import load
    from ringworld.api.make_qa import make_qa
    from ringworld.api.plan import plan
    from ringworld.api.prepare import prepare
    from ringworld.api.runs import runs
    from ringworld.api.serve import serve
    from ringworld.api.tokenizer import train_tokenizer
    from ringworld.api.train import train
    from ringworld.attention.api import attention
    from ringworld.core.errors import Diverged, InputError, Stopped
    from ringworld.data.qa.config import QaConfig
    from ringworld.evaluation.config import EvaluationConfig
    from ringworld.evaluation.held_out import HeldOutConfig
    from ringworld.evaluation.needles import NeedleConfig
    from ringworld.inference.world import World
    from ringworld.presets.run import RunConfig

_MODULE_OF = {
    "Diverged": "ringworld.core.errors",
    "EvaluationConfig": "ringworld.evaluation.config",
    "HeldOutConfig": "ringworld.evaluation.held_out",
    "InputError": "ringworld.core.errors",
    "NeedleConfig": "ringworld.evaluation.needles",
    "QaConfig": "ringworld.data.qa.config",
    "RunConfig": "ringworld.presets.run",
    "Stopped": "ringworld.core.errors",
    "World": "ringworld.inference.world",
    "chat": "ringworld.api.chat",
    "convert": "ringworld.api.convert",
    "data_show": "ringworld.api.data",
    "data_stats": "ringworld.api.data",
    "evaluate": "ringworld.api.evaluate",
    "generate": "ringworld.api.generate",
    "load": "ringworld.api.load",
    "make_qa": "ringworld.api.make_qa",
    "plan": "ringworld.api.plan",
    "prepare": "ringworld.api.prepare",
    "runs": "ringworld.api.runs",
    "serve": "ringworld.api.serve",
    "train": "ringworld.api.train",
    "train_tokenizer": "ringworld.api.tokenizer",
}

__all__ = [
    "Diverged",
    "EvaluationConfig",
    "HeldOutConfig",
    "InputError",
    "NeedleConfig",
    "QaConfig",
    "RunConfig",
    "Stopped",
    "World",
    "attention",
    "chat",
    "convert",
    "data_show",
    "data_stats",
    "evaluate",
    "generate",
    "load",
    "make_qa",
    "plan",
    "prepare",
    "presets",
    "runs",
    "serve",
    "train",
    "train_tokenizer",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name in ("attention", "presets"):
        return import_module(f"ringworld.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'ringworld' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
