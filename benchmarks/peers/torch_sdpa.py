"""PyTorch's `scaled_dot_product_attention` as a peer of `ringworld bench attention`, on one CPU or GPU.

Packed documents of one length are attended to as rows of a batch, and others one by one: the least work that
PyTorch can do for them.

    ringworld bench attention --peers "python benchmarks/peers/torch_sdpa.py"

It needs torch; the last argument, which the command adds, is the problem as JSON.
"""

import json
import platform
import re
import statistics
import sys
import time
from pathlib import Path

import torch
from torch.nn.functional import scaled_dot_product_attention


def main() -> None:
    """Print what `ringworld.bench.peers.Timing` holds."""
    problem = json.loads(sys.argv[-1])
    if problem["devices"] != 1:
        raise SystemExit("PyTorch is compared on one device")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    heads, kv_heads = problem["heads"], problem["kv_heads"]

    def normal(heads: int) -> torch.Tensor:
        shape = problem["batch"], heads, problem["seq"], problem["head"]
        x = torch.randn(shape, device=device).to(getattr(torch, problem["dtype"]))
        return x.requires_grad_(problem["backward"])

    empty = _memory_bytes(device)
    q, k, v, dout = normal(heads), normal(kv_heads), normal(kv_heads), normal(heads).detach()

    lengths = problem["lengths"]

    def attend(*of_documents: torch.Tensor) -> torch.Tensor:
        return scaled_dot_product_attention(*of_documents, is_causal=True, enable_gqa=heads != kv_heads)

    def attend_packed() -> torch.Tensor:
        if len(set(lengths)) == 1:
            rows = (x.unflatten(2, (len(lengths), -1)).transpose(1, 2).flatten(0, 1) for x in (q, k, v))
            return attend(*rows).unflatten(0, (problem["batch"], -1)).transpose(1, 2).flatten(2, 3)
        documents = zip(*(x.split(lengths, dim=2) for x in (q, k, v)))
        return torch.cat([attend(*document) for document in documents], dim=2)

    def run() -> None:
        out = attend_packed()
        if problem["backward"]:
            torch.autograd.grad(out, (q, k, v), dout)
        if device == "cuda":
            torch.cuda.synchronize()

    run()
    taken = []
    for _ in range(problem["repeats"]):
        begun = time.perf_counter()
        run()
        taken.append(time.perf_counter() - begun)
    measured = {
        "name": "torch scaled_dot_product_attention",
        "seconds": statistics.median(taken),
        "peak_bytes": _memory_bytes(device) - empty,
        "memory": "what the process grew by" if device == "cpu" else "what was allocated at most",
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }
    print(json.dumps(measured))


def _memory_bytes(device: str) -> int:
    """Return the most that was ever held."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert peak is not None
    return int(peak[1]) * 1024


if __name__ == "__main__":
    main()
