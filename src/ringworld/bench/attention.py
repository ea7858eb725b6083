"""Attention measured, beside peers: a table, an object of JSON, a picture."""

import io
import json
import re
import statistics
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from matplotlib.figure import Figure

from ringworld.attention.attend import attention
from ringworld.attention.config import AttentionConfig
from ringworld.bench.peers import (
    Failed,
    Problem,
    Timing,
    ask,
    check_one_answered,
    cut_command,
    median_of,
    outcome_of,
    too_large,
)
from ringworld.core.mesh import make_mesh, simulate_devices
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.origin import machine, versions
from ringworld.core.ranges import check_number
from ringworld.core.sharding import spec
from ringworld.core.version import __version__
from ringworld.model.arrange import Layout
from ringworld.report.style import ACCENT, GROUND, INK, LINES, MUTED, short

COMPILED = "what the compiler says that the program needs"
PEER_SECONDS = 1800.0
_OUT_OF_MEMORY = "RESOURCE_EXHAUSTED|[Oo]ut of memory"  # as backends of jax say it
_Q, _KV = ("batch", "seq", "heads", "head"), ("batch", "seq", "kv_heads", "head")


class _Tokens(NamedTuple):
    order: np.ndarray
    first: np.ndarray


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionBench:
    """What was measured of one problem."""

    problem: Problem
    ours: Timing
    peers: tuple[Timing | Failed, ...]

    def table(self) -> str:
        """Return a line for each program."""
        shown = [self.ours, *self.peers]
        width = max(len(one.name) for one in shown) + 2
        lines = [
            _title(self.problem),
            f"{'':{width}}{'seconds':>10}{'visible GFLOP/s':>18}{'peak MiB':>11}{'time':>11}",
        ]
        lines += [
            f"{one.name:{width}}failed: {one.failed}"
            if isinstance(one, Failed)
            else f"{one.name:{width}}{one.seconds:10.4f}{self.problem.flops / one.seconds / 1e9:18,.1f}"
            f"{one.peak_bytes / 2**20:11,.1f}{one.seconds / self.ours.seconds:9.2f} x"
            for one in shown
        ]
        return "\n".join(lines)

    def json(self, *, command: str) -> str:
        """Return one JSON object, with the command that it comes from."""

        def shown(one: Timing) -> dict[str, Any]:
            return asdict(one) | {"visible_flops_per_second": self.problem.flops / one.seconds}

        def compared(peer: Timing | Failed) -> dict[str, Any]:
            if isinstance(peer, Failed):
                return asdict(peer)
            row = shown(peer) | {"times_the_seconds": peer.seconds / self.ours.seconds}
            if peer.memory == self.ours.memory:
                row["times_the_bytes"] = peer.peak_bytes / self.ours.peak_bytes
            return row

        made = {
            "command": command,
            **shown(self.ours),
            "peers": [compared(peer) for peer in self.peers],
            "problem": asdict(self.problem),
            "device": jax.devices()[0].device_kind,
            "machine": machine(),
        }
        return json.dumps(made, indent=2, allow_nan=False)

    def picture(self) -> bytes:
        """Draw the time that each program took, as a PNG."""
        measured = [self.ours, *(one for one in self.peers if isinstance(one, Timing))]
        figure = Figure(figsize=(7, 0.5 * len(measured) + 1.3), layout="constrained", facecolor=GROUND)
        axes = figure.subplots()
        figure.suptitle(textwrap.fill(_title(self.problem), 80), x=0.01, ha="left", fontsize=11, color=INK)
        seconds = [one.seconds for one in measured]
        places = range(len(measured))
        bars = axes.barh(places, seconds, color=[ACCENT] + [LINES[0]] * (len(seconds) - 1))
        # A name may hold a $, which is no formula.
        axes.set_yticks(places, [one.name for one in measured], parse_math=False)
        labels = [f"{s:.3g} s, {self.problem.flops / s / 1e9:,.1f} GFLOP/s" for s in seconds]
        labels[1:] = [
            f"{label}: {s / seconds[0]:.2f} x the time" for label, s in zip(labels[1:], seconds[1:])
        ]
        axes.bar_label(bars, labels, padding=4, fontsize=9, color=INK)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.45 * max(seconds))
        axes.set_xlabel("seconds", fontsize=9, color=MUTED)
        axes.tick_params(length=0, labelsize=9, labelcolor=INK)
        axes.spines[:].set_visible(False)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=150, bbox_inches="tight")
        return stream.getvalue()


def bench_attention(
    problem: Problem,
    *,
    config: AttentionConfig,
    peers: Sequence[str] = (),
    peer_timeout_seconds: float = PEER_SECONDS,
    rounds: int = 1,
) -> AttentionBench:
    """Measure attention over packed sequences that are cut over devices, beside other programs.

    Args:
        problem: what is attended to.
        config: kernel, layout and blocks; the strategy is the problem's.
        peers: commands, each of which gets the problem as JSON and prints a `Timing`.
        peer_timeout_seconds: when a peer that does not end is killed, and reported as failed.
        rounds: how often all are measured, each in turn; the median counts.

    Raises:
        InputError: the sequence, the heads or the devices do not divide, a number is out of range, memory
            does not suffice, a peer is no command, or none of the peers answers.
    """
    check_number("rounds", rounds, least=1)
    check_number("peer_timeout_seconds", peer_timeout_seconds, above=0)
    asking = [
        partial(ask, command, cut_command(command), problem, timeout_seconds=peer_timeout_seconds)
        for command in peers
    ]
    try:
        measure = _compiled(problem, replace(config, strategy=problem.sharing.strategy))
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        said = " ".join(str(error).split())
        if isinstance(error, jax.errors.JaxRuntimeError) and not re.search(_OUT_OF_MEMORY, said):
            raise
        raise too_large(f"memory does not suffice: {said}") from error
    measured = [(measure(), [ask_peer() for ask_peer in asking]) for _ in range(rounds)]
    theirs = [outcome_of(of_one) for of_one in zip(*(of_peers for _, of_peers in measured))]
    check_one_answered(theirs)
    return AttentionBench(
        problem=problem, ours=median_of([ours for ours, _ in measured]), peers=tuple(theirs)
    )


def _compiled(problem: Problem, config: AttentionConfig) -> Callable[[], Timing]:
    """Compile our own program, and return what measures it."""
    sharing = problem.sharing
    simulate_devices(problem.devices)
    mesh = make_mesh(
        MeshConfig(ring=sharing.ring, ulysses=sharing.ulysses), devices=jax.devices()[: problem.devices]
    )
    tokens = _tokens(problem, config, mesh)
    with jax.set_mesh(mesh):
        arrays = _arrays(problem, mesh)
        program = jax.jit(_passes(problem, config)).lower(*arrays, tokens).compile()
        jax.block_until_ready(program(*arrays, tokens))
    memory = program.memory_analysis()
    assert memory is not None
    peak_bytes = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes

    def measure() -> Timing:
        taken = []
        for _ in range(problem.repeats):
            begun = time.perf_counter()
            jax.block_until_ready(program(*arrays, tokens))
            taken.append(time.perf_counter() - begun)
        return Timing(
            name=f"ringworld, {sharing.strategy}" if problem.devices > 1 else "ringworld",
            seconds=statistics.median(taken),
            peak_bytes=peak_bytes,
            memory=COMPILED,
            versions={"ringworld": __version__, **versions("jax", "jaxlib", "numpy")},
        )

    return measure


def _passes(problem: Problem, config: AttentionConfig) -> Callable[..., Any]:
    """Return what is measured: attention, and its gradients if they are asked for."""

    def passes(q: jax.Array, k: jax.Array, v: jax.Array, dout: jax.Array, tokens: _Tokens) -> Any:
        attend = partial(attention, **tokens._asdict(), config=config)
        if not problem.backward:
            return attend(q, k, v)
        out, pullback = jax.vjp(attend, q, k, v)
        return out, *pullback(dout)

    return passes


def _tokens(problem: Problem, config: AttentionConfig, mesh: Mesh) -> _Tokens:
    """Return the packed sequences, each token on the device that the layout names."""
    sizes = np.array(problem.lengths)
    first = np.repeat(np.cumsum(sizes) - sizes, sizes).astype(np.int32)
    tokens = _Tokens(
        order=np.tile(np.arange(problem.seq, dtype=np.int32), (problem.batch, 1)),
        first=np.tile(first, (problem.batch, 1)),
    )
    return Layout(config, mesh=mesh).place(tokens, [problem.lengths] * problem.batch).arrays


def _arrays(problem: Problem, mesh: Mesh) -> list[jax.Array]:
    """Return random queries, keys, values and cotangents, alike on every mesh."""
    shape = (problem.batch, problem.seq, problem.heads, problem.head)
    kv_shape = (*shape[:2], problem.kv_heads, problem.head)
    kinds = [(shape, _Q), (kv_shape, _KV), (kv_shape, _KV), (shape, _Q)]
    return [
        jax.device_put(
            jax.random.normal(key, shape, jnp.float32).astype(problem.dtype),
            NamedSharding(mesh, spec(*names)),
        )
        for key, (shape, names) in zip(jax.random.split(jax.random.key(0), 4), kinds)
    ]


def _title(problem: Problem) -> str:
    documents = len(problem.lengths)
    packed = f" in {documents} documents" if documents > 1 else ""
    shared = f" over {problem.devices} devices" if problem.devices > 1 else ""
    grouped = f" of {problem.kv_heads} keys" if problem.kv_heads != problem.heads else ""
    passes = "forward and backward" if problem.backward else "forward"
    rows = f"{problem.batch} x " if problem.batch > 1 else ""
    return (
        f"{rows}{short(problem.seq)} tokens{packed}{shared}, "
        f"{problem.heads} heads{grouped} of {problem.head}, {problem.dtype}, {passes}"
    )
