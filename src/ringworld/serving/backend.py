"""The model behind one server, as its routes ask it."""

from collections.abc import Sequence
from dataclasses import dataclass

from ringworld.inference.engine.engine import Engine
from ringworld.inference.engine.sequence import GenerationRequest
from ringworld.inference.world import World
from ringworld.serving.config import ServingConfig
from ringworld.serving.deadline import Deadline
from ringworld.serving.exchange import Exchange
from ringworld.serving.metrics import ServerMetrics


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Backend:
    """One model with its engine, and how it is served."""

    world: World
    engine: Engine
    config: ServingConfig
    metrics: ServerMetrics

    def ask(self, requests: Sequence[GenerationRequest], *, deadline: Deadline) -> Exchange:
        """Ask the engine, for an answer within the time that an HTTP request has left; see `Exchange`."""
        return Exchange(self.engine, requests, metrics=self.metrics, deadline=deadline)
