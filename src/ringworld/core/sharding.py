"""The one table from the names of array dimensions to mesh axes.

| dimension | mesh axes | |
|---|---|---|
| `batch` | data, fsdp | which sequence |
| `seq` | ring, ulysses | which part of a sequence |
| `weight` | fsdp, ring, ulysses | the dimension of a weight that is spread, and gathered before use |
| `heads`, `kv_heads`, `mlp`, `vocab` | tensor | |
| anything else | none | kept whole |
"""

from jax.sharding import PartitionSpec

DATA_AXIS = "data"
FSDP_AXIS = "fsdp"
RING_AXIS = "ring"
ULYSSES_AXIS = "ulysses"
TENSOR_AXIS = "tensor"
MESH_AXES = (DATA_AXIS, FSDP_AXIS, RING_AXIS, ULYSSES_AXIS, TENSOR_AXIS)
BATCH_AXES = (DATA_AXIS, FSDP_AXIS)
SEQ_AXES = (RING_AXIS, ULYSSES_AXIS)
WEIGHT_AXES = (FSDP_AXIS, RING_AXIS, ULYSSES_AXIS)

_AXES_OF_DIMENSION = {
    "batch": BATCH_AXES,
    "seq": SEQ_AXES,
    "weight": WEIGHT_AXES,
    "heads": TENSOR_AXIS,
    "kv_heads": TENSOR_AXIS,
    "mlp": TENSOR_AXIS,
    "vocab": TENSOR_AXIS,
}


def spec(*dimensions: str | None) -> PartitionSpec:
    """Return the partition of an array whose dimensions have these names.

    Example:
        `spec("batch", "seq", "embed")` is `PartitionSpec(("data", "fsdp"), ("ring", "ulysses"), None)`.
    """
    return PartitionSpec(*(_AXES_OF_DIMENSION.get(name) if name else None for name in dimensions))
