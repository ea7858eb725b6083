"""A running server under load, in the protocol of OpenAI's API: times, throughput and failures."""

import io
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ringworld.bench.client import Answer, Client
from ringworld.bench.load import Ask, Load, asks_of
from ringworld.core.errors import InputError
from ringworld.core.origin import machine, versions
from ringworld.core.version import __version__
from ringworld.report.plots import STYLE
from ringworld.report.style import ACCENT, GROUND, INK, LINES, MUTED

_PERCENTILES = (50, 90, 99)
_TRIAL = "a red circle moves to the right and a blue square stays " * 8
_MOST_THREADS = 4096


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ServingBench:
    """One run."""

    url: str
    model: str
    load: Load
    answers: Sequence[Answer]
    seconds: float
    """From the first request to the end of the last answer."""

    @property
    def answered(self) -> list[Answer]:
        """Those that did not fail."""
        return [each for each in self.answers if not each.failure]

    @property
    def failures(self) -> dict[str, int]:
        """How many failed, by the reason."""
        return dict(Counter(each.failure for each in self.answers if each.failure))

    def times(self) -> dict[str, list[float]]:
        """Return seconds by what they measure.

        | name | from | to |
        |---|---|---|
        | `first_token` | asking | the first token |
        | `per_token` | the first token | the last, a token after the first |
        | `between` | a piece of an answer | the next |
        | `whole` | asking | the last token |
        """
        done = self.answered
        return {
            "first_token": [each.began - each.asked for each in done if each.began is not None],
            "per_token": [
                (each.ended - each.began) / (each.new_tokens - 1)
                for each in done
                if each.began is not None and each.new_tokens > 1
            ],
            "between": [gap for each in done for gap in each.gaps],
            "whole": [each.ended - each.asked for each in done],
        }

    def rates(self) -> dict[str, float]:
        """Return what was done a second."""
        done = self.answered
        return {
            "requests_per_second": len(done) / self.seconds,
            "new_tokens_per_second": sum(each.new_tokens for each in done) / self.seconds,
            "prompt_tokens_per_second": sum(each.prompt_tokens for each in done) / self.seconds,
        }

    def json(self, *, command: str) -> str:
        """Return one JSON object, with the command that it comes from."""
        done = self.answered
        made = {
            "command": command,
            "model": self.model,
            "load": asdict(self.load),
            "seconds": self.seconds,
            "requests": {"asked": len(self.answers), "answered": len(done), "failed": self.failures},
            "tokens": {
                name: sum(getattr(each, name) for each in done)
                for name in ("prompt_tokens", "reused_tokens", "new_tokens")
            },
            "rates": self.rates(),
            "seconds_of": {name: _summary(values) for name, values in self.times().items()},
            "versions": {"ringworld": __version__, **versions("numpy")},
            "machine_of_client": machine(),
        }
        return json.dumps(made, indent=2)

    def table(self) -> str:
        """Return the run in a few lines."""
        rates, done = self.rates(), self.answered
        lines = [
            f"{len(done)} of {len(self.answers)} requests answered in {self.seconds:.1f} s: "
            f"{rates['requests_per_second']:.2f} requests/s, {rates['new_tokens_per_second']:.1f} tokens/s "
            f"written, {rates['prompt_tokens_per_second']:.1f} tokens/s of prompts",
            f"{'milliseconds':14}{'mean':>10}" + "".join(f"{f'p{p}':>10}" for p in _PERCENTILES),
        ]
        for name, values in self.times().items():
            numbers = _summary(values)
            shown = (f"{1e3 * value:10.1f}" for key, value in numbers.items() if key != "count")
            lines.append(f"{name.replace('_', ' '):14}" + "".join(shown))
        lines += [f"{count} failed: {reason}" for reason, count in self.failures.items()]
        return "\n".join(lines)

    def picture(self) -> bytes:
        """Draw how long requests wait, and what the server does at each moment, as a PNG."""
        times = self.times()
        with matplotlib.rc_context({**STYLE, "savefig.transparent": False}):
            figure = Figure(figsize=(11, 3.4), layout="constrained", facecolor=GROUND)
            beginning, token, moments = figure.subplots(1, 3)
        _draw_shares(beginning, times["first_token"], label="seconds to the first token")
        _draw_shares(token, [1e3 * each for each in times["between"]], label="milliseconds between tokens")
        _draw_moments(moments, self.answers, seconds=self.seconds)
        rates = self.rates()
        figure.suptitle(
            f"{self.model}: {len(self.answered)} of {len(self.answers)} requests answered, "
            f"{rates['new_tokens_per_second']:.1f} tokens/s written",
            fontsize=11,
            color=INK,
        )
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=150)
        return stream.getvalue()


def bench_serving(url: str, load: Load) -> ServingBench:
    """Ask a running server, and measure how it answers.

    Prompts are words at random, of lengths that a first request makes tokens of; what a server counts is
    what is reported. `$OPENAI_API_KEY` is shown where there is one.

    Args:
        url: of the server, with or without `/v1`.
        load: what is asked, and when.

    Raises:
        InputError: it is no address, or nothing there answers in the protocol.
    """
    server = Client.at(url, seconds=load.timeout_seconds, model=load.model)
    trial = Answer(asked=0.0)
    server.ask(Ask(at=0.0, prompt=_TRIAL, new_tokens=1), trial, begun=time.monotonic())
    if trial.failure or not trial.prompt_tokens:
        reason = trial.failure or "it does not count tokens (`stream_options.include_usage`)"
        raise InputError(
            f"the server at {url} does not answer as it should: {reason}", field="url", value=url
        )
    asks = asks_of(load, tokens_per_word=trial.prompt_tokens / len(_TRIAL.split()))
    answers = [Answer(asked=0.0) for _ in asks]
    begun = time.monotonic()
    waiting: Iterator[tuple[Ask, Answer]] = iter(list(zip(asks, answers)))
    taking = threading.Lock()

    def work() -> None:
        while True:
            with taking:
                found = next(waiting, None)
            if found is None:
                return
            ask, answer = found
            time.sleep(max(0.0, begun + ask.at - time.monotonic()))
            answer.asked = time.monotonic() - begun
            server.ask(ask, answer, begun=begun)

    # At a rate each has a thread of its own, since those who ask do not wait for each other.
    count = min(load.requests if load.rate else load.concurrency, _MOST_THREADS)
    threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = max(max(each.ended for each in answers), 1e-9)
    return ServingBench(url=url, model=server.model, load=load, answers=answers, seconds=seconds)


def _summary(values: Sequence[float]) -> dict[str, int | float]:
    """Return the mean and the percentiles; zeros where there is nothing."""
    known = np.asarray(values if len(values) else [0.0])
    percentiles = {f"p{p}": float(np.percentile(known, p)) for p in _PERCENTILES}
    return {"count": len(values), "mean": float(known.mean()), **percentiles}


def _draw_shares(axes: Axes, values: Sequence[float], *, label: str) -> None:
    """Draw which share took so long at most, with the percentiles named."""
    ordered = np.sort(np.asarray(values if len(values) else [0.0]))
    shares = np.arange(1, len(ordered) + 1) / len(ordered)
    axes.step(ordered, shares, where="post", color=ACCENT, linewidth=1.6)
    for percent in _PERCENTILES:
        at = float(np.percentile(ordered, percent))
        axes.plot([at], [percent / 100], "o", color=INK, markersize=3)
        axes.annotate(
            f"p{percent} {at:,.0f}" if at >= 100 else f"p{percent} {at:.3g}",
            (at, percent / 100),
            textcoords="offset points",
            xytext=(6, -10),
            fontsize=8,
            color=MUTED,
        )
    axes.set_xlim(0, max(1.25 * float(np.percentile(ordered, 99)), 1e-6))
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(label)
    axes.set_ylabel("share of them")


def _draw_moments(axes: Axes, answers: Sequence[Answer], *, seconds: float) -> None:
    """Draw how many wait for their first token, and how many are written, at each moment."""
    moments = np.linspace(0, seconds, 400)
    asked, ended = (np.array([getattr(each, name) for each in answers]) for name in ("asked", "ended"))
    began = np.array([each.ended if each.began is None else each.began for each in answers])
    waiting, written = (
        ((low[:, None] <= moments) & (moments < high[:, None])).sum(axis=0)
        for low, high in ((asked, began), (began, ended))
    )
    axes.stackplot(moments, written, waiting, colors=(ACCENT, LINES[0]), labels=("written", "waiting"))
    axes.set_xlim(0, seconds)
    axes.set_ylim(0, None)
    axes.set_xlabel("seconds")
    axes.set_ylabel("requests")
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.legend(
        frameon=False,
        fontsize=8,
        labelcolor=INK,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=2,
        borderpad=0,
    )
