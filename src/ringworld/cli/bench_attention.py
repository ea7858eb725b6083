"""`ringworld bench attention`: time, rate and memory of attention, beside peers."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from ringworld.attention.config import AttentionConfig, ComputeType, KernelName, LayoutName, Strategy
from ringworld.cli.options import Show, Shown, given, otherwise


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchAttention:
    """Measure attention over packed sequences that are cut over devices.

    Random queries, keys and values are attended to as in training. Without an accelerator devices are
    simulated. The rate counts what is visible alone: for each component of each head, 4 floating-point
    operations a visible pair of a query and a key forward, and 10 backward.
    """

    seq: int = 8192
    """Length of a packed sequence, in tokens."""
    batch: int = 1
    """Packed sequences."""
    heads: int = 8
    """Heads of queries."""
    kv_heads: Annotated[int | None, otherwise("as many as heads", metavar="INT")] = None
    """Heads of keys and values."""
    head: int = 64
    """Size of a head."""
    dtype: ComputeType = "float32"
    """Type of queries, keys and values."""
    backward: bool = True
    """Whether to take the gradients too, or the values alone."""
    documents: int = 1
    """How many documents fill a sequence."""
    lengths: Literal["equal", "random"] = "equal"
    """Whether documents are of one length, or cut at random places."""
    seed: int = 0
    """The same seed gives the same random lengths."""
    devices: int = 1
    """Members that share a sequence."""
    strategy: Annotated[Strategy | None, otherwise("as heads and devices advise", metavar="STRATEGY")] = None
    """How they share the work: ring, head_parallel, hybrid (heads exchanged within groups) or all_gather."""
    layout: LayoutName = "balanced"
    """Which of them holds which tokens."""
    kernel: KernelName = "auto"
    """What computes one shard of queries against one of keys."""
    block_q_tokens: int = 0
    """Queries of one block, at most; 0 is 256, or 512 where one device has all cores of a CPU."""
    block_kv_tokens: int = 256
    """Keys of one block, at most."""
    repeats: int = 5
    """Timed runs of which the median counts, after one that does not."""
    rounds: int = 1
    """How often all are measured, each in turn; the median counts."""
    peers: Annotated[tuple[str, ...], otherwise("none", metavar="[COMMAND [COMMAND ...]]")] = ()
    """Commands to compare with, such as "python benchmarks/peers/torch_sdpa.py"."""
    peer_timeout_seconds: float = 1800.0
    """When a peer that does not end is killed, and reported as failed."""
    show: Shown = Show()

    def measure(self) -> Any:
        """Measure it, and peers."""
        from ringworld.bench import lengths
        from ringworld.bench.attention import bench_attention
        from ringworld.bench.peers import Problem

        config = AttentionConfig(**given(self, "kernel", "layout", "block_q_tokens", "block_kv_tokens"))
        names = ("seq", "batch", "heads", "head", "dtype", "backward", "devices", "strategy", "repeats")
        problem = Problem(
            **given(self, *names),
            kv_heads=self.heads if self.kv_heads is None else self.kv_heads,
            lengths=lengths.draw(self.lengths, **given(self, "seq", "documents", "seed")),
        )
        options = given(self, "peers", "peer_timeout_seconds", "rounds")
        return bench_attention(problem, config=config, **options)
