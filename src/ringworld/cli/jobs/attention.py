"""Attention measured, beside peers: a table, an object of JSON, a picture."""

import io
import json
import re
import statistics
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from matplotlib.figure import Figure

from ringworld.attention.attend import attention
from ringworld.attention.config import AttentionConfig, advised_sharing
from ringworld.attention.layouts import MOST_TOKENS
from ringworld.cli.bench_attention import BenchAttention
from ringworld.cli.jobs import lengths
from ringworld.cli.jobs.peers import (
    Failed,
    Measured,
    Problem,
    ask,
    check_one_answered,
    cut_command,
    median_of,
    outcome_of,
)
from ringworld.cli.jobs.provenance import command_of, machine, versions_of
from ringworld.cli.options import check_option, check_picture
from ringworld.core.errors import InputError
from ringworld.core.files import write_bytes_atomic
from ringworld.core.mesh import make_mesh, simulate_devices
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.sharding import spec
from ringworld.evaluation.plots import ACCENT, GROUND, INK, LINES, MUTED, short
from ringworld.model.arrange import arrange, place_rows

COMPILED = "what the compiler says that the program needs"
_MOST_DEVICES = 512  # to simulate
_OUT_OF_MEMORY = "RESOURCE_EXHAUSTED|[Oo]ut of memory"  # as backends of jax say it
_MOST_BYTES = 2**42  # of the queries, more than any one machine holds; what is less may fail yet
_Q, _KV = ("batch", "seq", "heads", "head"), ("batch", "seq", "kv_heads", "head")


class _Tokens(NamedTuple):
    order: np.ndarray
    first: np.ndarray


def bench_attention(asked: BenchAttention) -> str:
    """Measure, draw what is asked for, and return the table or the JSON.

    Raises:
        InputError: the sequence, the heads or the devices do not divide, a number makes no sense, `--out` is
            no name of a picture, a peer is no command, or none of the peers answers.
    """
    problem = _problem(asked)
    check_picture(asked.out)
    peers = [partial(ask, command, cut_command(command), problem) for command in asked.peers]
    with _memory_told():
        measure = _ours(asked, problem)
    rounds = [(measure(), [peer() for peer in peers]) for _ in range(asked.rounds)]
    ours = median_of([of_us for of_us, _ in rounds])
    theirs = [outcome_of(of_one) for of_one in zip(*(of_peers for _, of_peers in rounds))]
    check_one_answered(theirs)
    if asked.out is not None:
        answered = [one for one in theirs if isinstance(one, Measured)]
        write_bytes_atomic(asked.out, picture([ours, *answered], problem))
    return _as_json(asked, problem, ours, theirs) if asked.json else _as_table(problem, ours, theirs)


def picture(measured: Sequence[Measured], problem: Problem) -> bytes:
    """Draw the time that each program took, as a PNG."""
    figure = Figure(figsize=(7, 0.5 * len(measured) + 1.3), layout="constrained", facecolor=GROUND)
    axes = figure.subplots()
    title = textwrap.fill(_title(problem), 80)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK)
    seconds = [one.seconds for one in measured]
    places = range(len(measured))
    bars = axes.barh(places, seconds, color=[ACCENT] + [LINES[0]] * (len(seconds) - 1))
    # A name may hold a $, which is no formula.
    axes.set_yticks(places, [one.name for one in measured], parse_math=False)
    labels = [_told(one, problem, first=measured[0]) for one in measured]
    axes.bar_label(bars, labels, padding=4, fontsize=9, color=INK)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.45 * max(seconds))
    axes.set_xlabel("seconds", fontsize=9, color=MUTED)
    axes.tick_params(length=0, labelsize=9, labelcolor=INK)
    axes.spines[:].set_visible(False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=150, bbox_inches="tight")
    return stream.getvalue()


def _problem(asked: BenchAttention) -> Problem:
    check = partial(check_option, asked)
    check("batch", "heads", "head", "repeats", "rounds", "block_q_tokens", "block_kv_tokens", least=1)
    check("seq", least=1, most=MOST_TOKENS)
    check("devices", least=1, most=_MOST_DEVICES)
    check("seed", least=0)
    if asked.kv_heads is not None:
        check("kv_heads", least=1)
    largest = max(asked.heads, asked.kv_heads or 1)
    _check_memory(4 * asked.batch * asked.seq * largest * asked.head)
    match asked.lengths:
        case "equal":
            documents = lengths.equal(asked.documents, seq=asked.seq)
        case "random":
            documents = lengths.random_cuts(asked.documents, seq=asked.seq, seed=asked.seed)
    kv_heads = asked.heads if asked.kv_heads is None else asked.kv_heads
    return Problem(
        seq=asked.seq,
        batch=asked.batch,
        heads=asked.heads,
        kv_heads=kv_heads,
        head=asked.head,
        dtype=asked.dtype,
        backward=asked.backward,
        lengths=documents,
        devices=asked.devices,
        sharing=advised_sharing(kv_heads=kv_heads, members=asked.devices, strategy=asked.strategy),
        repeats=asked.repeats,
    )


def _check_memory(query_bytes: int) -> None:
    """Refuse a problem that no machine holds, and whose sizes overflow in places that could not say so."""
    if query_bytes > _MOST_BYTES:
        raise _too_large(f"queries or keys of {query_bytes:,} bytes")


@contextmanager
def _memory_told() -> Iterator[None]:
    """Say what to do where memory does not suffice."""
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        said = " ".join(str(error).split())
        if isinstance(error, jax.errors.JaxRuntimeError) and not re.search(_OUT_OF_MEMORY, said):
            raise
        raise _too_large(said) from error


def _too_large(got: str) -> InputError:
    return InputError(
        what="memory for the sequence",
        got=got,
        expected="queries, keys, values and gradients that fit",
        remedy="Use a shorter --seq, fewer --heads, or more --devices where each has memory of its own.",
    )


def _ours(asked: BenchAttention, problem: Problem) -> Callable[[], Measured]:
    """Compile our own program, and return what measures it."""
    sharing = problem.sharing
    config = AttentionConfig(
        kernel=asked.kernel,
        strategy=sharing.strategy,
        layout=asked.layout,
        block_q_tokens=asked.block_q_tokens,
        block_kv_tokens=asked.block_kv_tokens,
    )
    simulate_devices(asked.devices)
    mesh = make_mesh(
        MeshConfig(ring=sharing.ring, ulysses=sharing.ulysses), devices=jax.devices()[: asked.devices]
    )
    tokens = _tokens(problem, config, mesh)
    with jax.set_mesh(mesh):
        arrays = _arrays(problem, mesh)
        program = jax.jit(_passes(problem, config)).lower(*arrays, tokens).compile()
        jax.block_until_ready(program(*arrays, tokens))

    def measure() -> Measured:
        taken = []
        for _ in range(problem.repeats):
            begun = time.perf_counter()
            jax.block_until_ready(program(*arrays, tokens))
            taken.append(time.perf_counter() - begun)
        return Measured(
            name=f"ringworld, {sharing.strategy}" if problem.devices > 1 else "ringworld",
            seconds=statistics.median(taken),
            peak_bytes=_peak_bytes(program),
            memory=COMPILED,
            versions=versions_of("jax", "jaxlib", "numpy"),
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
    rows = [problem.lengths] * problem.batch
    return arrange(
        tokens, mesh=mesh, placements=place_rows(rows, seq=problem.seq, attention=config, mesh=mesh)
    )


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


def _peak_bytes(program: jax.stages.Compiled) -> int:
    memory = program.memory_analysis()
    assert memory is not None
    return memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes


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


def _told(one: Measured, problem: Problem, *, first: Measured) -> str:
    rate = f"{one.seconds:.3g} s, {problem.flops / one.seconds / 1e9:,.1f} GFLOP/s"
    return rate if one is first else f"{rate}: {one.seconds / first.seconds:.2f} x the time"


def _as_table(problem: Problem, ours: Measured, peers: Sequence[Measured | Failed]) -> str:
    shown = [ours, *peers]
    width = max(len(one.name) for one in shown) + 2
    lines = [
        _title(problem),
        f"{'':{width}}{'seconds':>10}{'visible GFLOP/s':>18}{'peak MiB':>11}{'time':>11}",
    ]
    lines += [
        f"{one.name:{width}}failed: {one.failed}"
        if isinstance(one, Failed)
        else f"{one.name:{width}}{one.seconds:10.4f}{problem.flops / one.seconds / 1e9:18,.1f}"
        f"{one.peak_bytes / 2**20:11,.1f}{one.seconds / ours.seconds:9.2f} x"
        for one in shown
    ]
    return "\n".join(lines)


def _as_json(
    asked: BenchAttention, problem: Problem, ours: Measured, peers: Sequence[Measured | Failed]
) -> str:
    def told(one: Measured) -> dict[str, Any]:
        return asdict(one) | {"visible_flops_per_second": problem.flops / one.seconds}

    def compared(peer: Measured | Failed) -> dict[str, Any]:
        if isinstance(peer, Failed):
            return asdict(peer)
        row = told(peer) | {"times_the_seconds": peer.seconds / ours.seconds}
        if peer.memory == ours.memory:
            row["times_the_bytes"] = peer.peak_bytes / ours.peak_bytes
        return row

    return json.dumps(
        {
            "command": command_of("ringworld bench attention", asked),
            **told(ours),
            "peers": [compared(peer) for peer in peers],
            "problem": asdict(problem),
            "device": jax.devices()[0].device_kind,
            "machine": machine(),
        },
        indent=2,
        allow_nan=False,
    )
