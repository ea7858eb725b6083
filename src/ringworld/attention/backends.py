"""The one place that chooses a kernel."""

from ringworld.attention import xla
from ringworld.attention.config import AttentionConfig
from ringworld.attention.kernel import Kernel


def kernel_for(config: AttentionConfig) -> Kernel:
    """Return the module that computes attention between shards."""
    match config.kernel:
        case "xla":
            return xla
