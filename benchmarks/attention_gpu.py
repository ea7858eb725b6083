"""Check and time the attention kernels for NVIDIA GPUs, beside cuDNN and torch, in one run on one machine.

Hardware: one H100 or H200. Needs jax with CUDA, jaxtyping, and torch for its rows; takes some minutes.

    PYTHONPATH=src python benchmarks/attention_gpu.py --out benchmarks/results

First every kernel is compared with attention in float32; then each is timed alone, forward and backward. A
failure is recorded with its error and its traceback in attention_gpu.log, and the other rows still run. The
result, attention_gpu.json, is rewritten after each row, so that an interrupted run leaves what it measured.

TFLOP/s are those of the visible pairs: 4 x head x heads x pairs forward, 2.5 times that backward. Packed
documents are a batch of as many rows to the peers, which know no packing in one row: the same visible work.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Torch works on the same device.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np

from ringworld.attention import pallas_hopper, pallas_triton, xla
from ringworld.attention.config import AttentionConfig
from ringworld.attention.pallas_hopper import HopperTile, choose_tiles
from ringworld.attention.visibility import MaskSpec, visible
from ringworld.attention.work import attention_flops, visible_pairs

KERNELS: dict[str, Any] = {"pallas_hopper": pallas_hopper, "pallas_triton": pallas_triton, "xla": xla}
CONFIG = AttentionConfig()
PARTS = ("check", "hopper", "peers", "triton", "xla")
MEASURED_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is attended to: examples of these lengths in one sequence."""

    name: str
    lengths: tuple[int, ...]
    heads: int
    kv_heads: int
    head: int

    @property
    def seq(self) -> int:
        """Tokens of the sequence."""
        return sum(self.lengths)

    @property
    def forward_flops(self) -> int:
        """Operations of the products of visible pairs."""
        return attention_flops(visible_pairs(self.lengths), heads=self.heads, head=self.head, backward=False)

    def mask(self) -> MaskSpec:
        """Return which token sees which."""
        order = np.arange(self.seq, dtype=np.int32)[None]
        first = np.repeat(np.cumsum(self.lengths) - self.lengths, self.lengths).astype(np.int32)[None]
        return MaskSpec(*(jnp.asarray(x) for x in (order, first, order)))

    def arrays(self) -> tuple[jax.Array, ...]:
        """Return q, k, v and dout [1, heads, seq, head] in bfloat16."""
        keys = jax.random.split(jax.random.key(0), 4)
        heads = (self.heads, self.kv_heads, self.kv_heads, self.heads)
        return tuple(
            jax.random.normal(key, (1, n, self.seq, self.head), jnp.bfloat16) for key, n in zip(keys, heads)
        )


class Report:
    """The rows of a run, written to a file as they come."""

    def __init__(self, out: Path, about: dict[str, Any]):
        out.mkdir(parents=True, exist_ok=True)
        self._file, self._log = out / "attention_gpu.json", out / "attention_gpu.log"
        self._content: dict[str, Any] = {**about, "checks": [], "times": []}
        self._log.write_text("")

    @contextlib.contextmanager
    def row(self, kind: str, **names: Any) -> Iterator[dict[str, Any]]:
        """Give a row to fill; an exception ends it, not the run."""
        row = dict(names)
        try:
            yield row
        except Exception as error:  # the first run on a GPU may fail anywhere, and must say where
            row["error"] = f"{type(error).__name__}: {error}"[:400]
            with self._log.open("a") as log:
                log.write(f"=== {kind} {names}\n{traceback.format_exc()}\n")
        self._content[kind].append(row)
        self._file.write_text(json.dumps(self._content, indent=1) + "\n")
        print(kind, json.dumps(row), flush=True)


def reference(
    q: jax.Array, k: jax.Array, v: jax.Array, dout: jax.Array, mask: MaskSpec
) -> dict[str, jax.Array]:
    """Return attention and its gradients in float32, with the whole mask."""
    group = q.shape[1] // k.shape[1]

    def out_and_lse(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        k, v = (jnp.repeat(x, group, axis=1) for x in (k, v))
        scores = jnp.einsum("bhqd,bhkd->bhqk", q, k) * q.shape[-1] ** -0.5
        scores = jnp.where(visible(mask)[:, None], scores, -jnp.inf)
        return jnp.einsum("bhqk,bhkd->bhqd", jax.nn.softmax(scores), v), jax.nn.logsumexp(scores, axis=-1)

    with jax.default_matmul_precision("highest"):
        q, k, v, dout = (x.astype(jnp.float32) for x in (q, k, v, dout))
        (out, lse), pullback = jax.vjp(out_and_lse, q, k, v)
        dq, dk, dv = pullback((dout, jnp.zeros_like(lse)))
    return {"out": out, "lse": lse, "dq": dq, "dk": dk, "dv": dv}


def check(report: Report, *, seq: int) -> None:
    """Record by how much each kernel differs, as a share of the largest number of a result."""
    for lengths in ((seq,), (seq // 2 - 7, 1, seq // 4, seq // 8)):
        for head, heads, kv_heads in (
            (64, 4, 2),
            (80, 2, 2),
            (96, 2, 1),
            (128, 4, 4),
            (128, 8, 2),
            (256, 2, 1),
        ):
            case = Case(name=str(lengths), lengths=lengths, heads=heads, kv_heads=kv_heads, head=head)
            q, k, v, dout = case.arrays()
            mask = case.mask()
            expected = jax.jit(reference)(q, k, v, dout, mask)
            delta = jnp.sum(expected["out"] * dout.astype(jnp.float32), axis=-1)
            for name, kernel in KERNELS.items():
                if name == "pallas_hopper" and head > 128:
                    continue
                names = {"lengths": lengths, "head": head, "heads": heads, "kv_heads": kv_heads}
                with report.row("checks", kernel=name, **names) as row:
                    part = _forward(kernel)(q, k, v, mask)
                    of_keys = _backward(kernel)(q, k, v, dout, expected["lse"], delta, mask)
                    ours = {**part._asdict(), **of_keys._asdict()}
                    row["errors"] = {
                        name: float(jnp.abs(ours[name] - x).max() / jnp.abs(x).max())
                        for name, x in expected.items()
                    }
                    again = _backward(kernel)(q, k, v, dout, expected["lse"], delta, mask)
                    row["same_again"] = all(bool((a == b).all()) for a, b in zip(of_keys, again))


def time_hopper(report: Report, case: Case) -> None:
    """Time the kernel for Hopper with several tiles."""
    q, k, v, dout = case.arrays()
    mask = case.mask()
    lse, delta = _final(q, k, v, dout, mask)
    chosen = choose_tiles(head=case.head)
    for tile in (chosen.forward, HopperTile(other=64, stages=4), HopperTile(other=64, stages=2)):
        with _timed(report, case, "pallas_hopper", "forward", tile=dataclasses.asdict(tile)) as measure:
            tiles = dataclasses.replace(chosen, forward=tile)
            measure(_forward(pallas_hopper, tiles=tiles), q, k, v, mask)
    for q_tile, kv_tile in (
        (chosen.backward_q, chosen.backward_kv),
        (HopperTile(other=64, stages=4), HopperTile(other=64, stages=2)),
        (HopperTile(other=64, stages=2), HopperTile(other=64, stages=3)),
    ):
        tile = {"q": dataclasses.asdict(q_tile), "kv": dataclasses.asdict(kv_tile)}
        with _timed(report, case, "pallas_hopper", "backward", tile=tile) as measure:
            tiles = dataclasses.replace(chosen, backward_q=q_tile, backward_kv=kv_tile)
            measure(_backward(pallas_hopper, tiles=tiles), q, k, v, dout, lse, delta, mask)


def time_others(report: Report, case: Case, *, kernel: str) -> None:
    """Time another of our kernels."""
    q, k, v, dout = case.arrays()
    mask = case.mask()
    lse, delta = _final(q, k, v, dout, mask)
    with _timed(report, case, kernel, "forward") as measure:
        measure(_forward(KERNELS[kernel]), q, k, v, mask)
    with _timed(report, case, kernel, "backward") as measure:
        measure(_backward(KERNELS[kernel]), q, k, v, dout, lse, delta, mask)


def _final(
    q: jax.Array, k: jax.Array, v: jax.Array, dout: jax.Array, mask: MaskSpec
) -> tuple[jax.Array, jax.Array]:
    """Return what the backward pass needs, by the first kernel that runs; its failure has a row elsewhere."""
    for kernel in KERNELS.values():
        with contextlib.suppress(Exception):
            part = jax.block_until_ready(_forward(kernel)(q, k, v, mask))
            return part.lse, jnp.sum(part.out * dout.astype(jnp.float32), axis=-1)
    raise RuntimeError("no kernel runs")


def time_cudnn(report: Report, case: Case) -> None:
    """Time cuDNN as jax calls it."""
    attend = functools.partial(jax.nn.dot_product_attention, is_causal=True, implementation="cudnn")
    # [rows, tokens, heads, head]
    q, k, v, dout = (jnp.asarray(_rows(x, case).swapaxes(1, 2)) for x in case.arrays())
    with _timed(report, case, "jax cudnn", "forward") as measure:
        measure(jax.jit(attend), q, k, v)
    with _timed(report, case, "jax cudnn", "backward") as measure:
        _, pullback = jax.jit(lambda *x: jax.vjp(attend, *x))(q, k, v)
        measure(jax.jit(lambda pullback, dout: pullback(dout)), pullback, dout)


def time_torch(report: Report, case: Case) -> None:
    """Time scaled_dot_product_attention of torch with two of its backends."""
    for backend in ("CUDNN_ATTENTION", "FLASH_ATTENTION"):
        for which in ("forward", "backward"):
            with _timed(report, case, f"torch {backend}", which) as measure:
                measure(*_torch_call(case, backend=backend, which=which))


def _torch_call(case: Case, *, backend: str, which: str) -> tuple[Callable[[], Any]]:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    rows, seq = len(case.lengths), case.lengths[0]
    q, k, v, dout = (
        torch.randn(rows, n, seq, case.head, device="cuda", dtype=torch.bfloat16, requires_grad=n_grad)
        for n, n_grad in (
            (case.heads, True),
            (case.kv_heads, True),
            (case.kv_heads, True),
            (case.heads, False),
        )
    )

    def forward() -> Any:
        with sdpa_kernel(getattr(SDPBackend, backend)):
            return torch.nn.functional.scaled_dot_product_attention(
                q, k, v, is_causal=True, enable_gqa=case.heads != case.kv_heads
            )

    out = forward()

    def run_forward() -> None:
        with torch.no_grad():
            forward()
        torch.cuda.synchronize()

    def run_backward() -> None:
        torch.autograd.grad(out, (q, k, v), dout, retain_graph=True)
        torch.cuda.synchronize()

    return (run_forward if which == "forward" else run_backward,)


@contextlib.contextmanager
def _timed(
    report: Report, case: Case, kernel: str, which: str, **names: Any
) -> Iterator[Callable[..., None]]:
    """Give a function that times another, and record what it measured."""
    flops = case.forward_flops * (1 if which == "forward" else 2.5)
    with report.row("times", case=case.name, kernel=kernel, which=which, **names) as row:

        def measure(f: Callable[..., Any], *args: Any) -> None:
            seconds = _seconds(f, *args)
            row["milliseconds"] = [round(1e3 * x, 4) for x in seconds]
            row["tflops"] = round(flops / statistics.median(seconds) / 1e12, 1)

        yield measure


def _seconds(f: Callable[..., Any], *args: Any) -> list[float]:
    """Return the time of a call, five times over, each the mean of as many calls as fill a share of a second.

    What takes longer than all of that is called but once more.
    """
    once = 0.0
    for _ in range(2):  # the first compiles
        begin = time.perf_counter()
        jax.block_until_ready(f(*args))
        once = max(time.perf_counter() - begin, 1e-6)
    calls = max(1, int(MEASURED_SECONDS / 5 / once))
    seconds = []
    for _ in range(5 if once < MEASURED_SECONDS else 1):
        begin = time.perf_counter()
        for _ in range(calls):
            result = f(*args)
        jax.block_until_ready(result)
        seconds.append((time.perf_counter() - begin) / calls)
    return seconds


def _forward(kernel: Any, **options: Any) -> Callable[..., Any]:
    return jax.jit(lambda q, k, v, mask: kernel.forward(q, k, v, mask=mask, config=CONFIG, **options))


def _backward(kernel: Any, **options: Any) -> Callable[..., Any]:
    return jax.jit(
        lambda q, k, v, dout, lse, delta, mask: kernel.backward(
            q, k, v, dout, lse=lse, delta=delta, mask=mask, config=CONFIG, **options
        )
    )


def _rows(x: jax.Array, case: Case) -> jax.Array:
    """Make a row of each example, all of one length, of [1, heads, seq, head]."""
    heads, head = x.shape[1], x.shape[3]
    return x.reshape(heads, len(case.lengths), case.lengths[0], head).swapaxes(0, 1)


def _about(cases: list[Case]) -> dict[str, Any]:
    """Return what a figure needs beside it: versions, hardware, shapes and the command."""

    def version(package: str) -> str | None:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    packages = ("jax", "jaxlib", "jax-cuda13-plugin", "jax-cuda12-plugin", "torch", "nvidia-cudnn-cu13")
    return {
        "command": " ".join(["python", *sys.argv]),
        "commit": _output("git", "rev-parse", "HEAD"),
        "device": jax.devices()[0].device_kind,
        "driver": _output(
            "nvidia-smi", "--query-gpu=name,driver_version,power.limit,clocks.max.sm", "--format=csv"
        ),
        "versions": {"python": sys.version.split()[0], **{name: version(name) for name in packages}},
        "cases": [{**dataclasses.asdict(case), "forward_flops": case.forward_flops} for case in cases],
    }


def _output(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def main() -> None:
    """Check, then time."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the result and the log")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS, help="which to run")
    parser.add_argument("--shrink", type=int, default=1, help="divide the lengths, to try the script")
    options = parser.parse_args()
    long, document = 32768 // options.shrink, 8192 // options.shrink
    cases = [
        Case(name="causal 32K", lengths=(long,), heads=16, kv_heads=16, head=128),
        Case(name="causal 32K grouped", lengths=(long,), heads=32, kv_heads=8, head=128),
        Case(name="128K packed in 16", lengths=(document,) * 16, heads=16, kv_heads=16, head=128),
    ]
    report = Report(options.out, _about(cases))
    if "check" in options.parts:
        check(report, seq=1024 // min(options.shrink, 8))
    parts = {
        "hopper": (time_hopper,),
        "peers": (time_cudnn, time_torch),
        "triton": (functools.partial(time_others, kernel="pallas_triton"),),
        "xla": (functools.partial(time_others, kernel="xla"),),
    }
    for part, timings in parts.items():
        for case in cases if part in options.parts else ():
            for measure in timings:
                measure(report, case)


if __name__ == "__main__":
    main()
