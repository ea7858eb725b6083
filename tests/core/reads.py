"""How much TensorStore, and so Orbax, has read from files."""

import tensorstore


def bytes_read() -> int:
    """Return the bytes since the process began."""
    metrics = tensorstore.experimental_collect_matching_metrics("/tensorstore/kvstore/file/bytes_read")
    return sum(value["value"] for metric in metrics for value in metric["values"])
