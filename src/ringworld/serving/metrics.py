"""What `/metrics` shows, in the format of Prometheus."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from ringworld.inference.engine.engine import Engine

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
Metric = CounterMetricFamily | GaugeMetricFamily


class ServerMetrics:
    """The measurements of one server.

    Attributes:
        requests: by path and status; the path is empty where no route answers.
        first_token: seconds from asking to the first token.
        next_token: seconds from each token to the next.
    """

    def __init__(self, engine: Engine) -> None:
        """Begin with zeros."""
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "ringworld_http_requests",
            "Requests that were answered",
            ("path", "status"),
            registry=self._registry,
        )
        self.first_token, self.next_token = (
            Histogram(f"ringworld_{name}_seconds", text, buckets=_SECONDS, registry=self._registry)
            for name, text in (
                ("first_token", "From asking to the first token of a text"),
                ("next_token", "From a token of a text to the next"),
            )
        )
        self._registry.register(_OfEngine(engine))

    def render(self) -> bytes:
        """Return the page."""
        return generate_latest(self._registry)


class _OfEngine(Collector):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        state = self._engine.state
        for name, text, value in (
            ("waiting_requests", "Texts that wait", state.waiting),
            ("running_requests", "Texts that are read or written", state.running),
            ("cache_pages", "Pages of the cache", state.pages),
            ("cache_held_pages", "Pages that texts hold", state.held_pages),
        ):
            yield GaugeMetricFamily(f"ringworld_{name}", text, value=value)
        for name, text, value in (
            ("prompt_tokens", "Tokens of prompts that were read", state.read_tokens),
            ("reused_tokens", "Tokens of prompts that the cache held", state.reused_tokens),
            ("generation_tokens", "Tokens that were written", state.written_tokens),
            ("engine_steps", "Steps of the engine", state.steps),
            ("preemptions", "Texts that gave up their pages and were read again", state.preempted),
        ):
            yield CounterMetricFamily(f"ringworld_{name}", text, value=value)
