"""Checkpoints of LWM as its trainer writes them, and its forward pass in NumPy, from its source alone."""

from collections.abc import Callable
from pathlib import Path

import msgpack
import numpy as np

PARTS = {
    "attention_norm/kernel": ("embed",),
    "attention/wq/kernel": ("embed", "embed"),
    "attention/wk/kernel": ("embed", "embed"),
    "attention/wv/kernel": ("embed", "embed"),
    "attention/wo/kernel": ("embed", "embed"),
    "ffn_norm/kernel": ("embed",),
    "feed_forward/w1/kernel": ("embed", "mlp"),
    "feed_forward/w2/kernel": ("mlp", "embed"),
    "feed_forward/w3/kernel": ("embed", "mlp"),
}

Params = dict[str, np.ndarray]
"""Layer by layer: `transformer/h/0/attention/wq/kernel`."""


def draw(*, layers: int, embed: int, mlp: int, text: int, vision: int, seed: int = 0) -> Params:
    """Draw weights of unit gain, and norms that are not the identity."""
    rng = np.random.default_rng(seed)
    sizes = {"embed": embed, "mlp": mlp}

    def drawn(*shape: int) -> np.ndarray:
        if len(shape) == 1:
            return (1 + 0.3 * rng.standard_normal(shape)).astype(np.float32)
        return (rng.standard_normal(shape) * shape[0] ** -0.5).astype(np.float32)

    params = {"transformer/wte/embedding": drawn(text, embed), "lm_head/kernel": drawn(embed, text)}
    if vision:
        params["transformer/vte/embedding"] = drawn(vision, embed)
        params["vision_head/kernel"] = drawn(embed, vision)
    for layer in range(layers):
        for part, names in PARTS.items():
            params[f"transformer/h/{layer}/{part}"] = drawn(*(sizes[name] for name in names))
    return params | {"transformer/ln_f/kernel": drawn(embed)}


def scanned(params: Params, *, axis: int) -> Params:
    """Stack the layers, as flax's `scan` does."""
    layers = len({name.split("/")[2] for name in params if name.startswith("transformer/h/")})
    stacked = {name: array for name, array in params.items() if not name.startswith("transformer/h/")}
    for part in PARTS:
        arrays = [params[f"transformer/h/{layer}/{part}"] for layer in range(layers)]
        stacked[f"transformer/h/scan_decoder/{part}"] = np.stack(arrays, axis=axis)
    return stacked


def pack(value: object) -> bytes:
    packed = msgpack.packb(value)
    assert packed is not None
    return packed


def leaf(array: np.ndarray, *, code: int = 1) -> msgpack.ExtType:
    """Pack an array as flax does."""
    return msgpack.ExtType(code, pack((array.shape, array.dtype.name, array.tobytes("C"))))


def whole(array: np.ndarray) -> bytes:
    return pack(leaf(array))


def in_chunks(array: np.ndarray, *, numbers: int) -> bytes:
    """Pack an array as flax does with one above 1 GiB."""
    flat = array.reshape(-1)
    chunks = [flat[begin : begin + numbers] for begin in range(0, flat.size, numbers)]
    described = {
        "__msgpack_chunked_array__": True,
        "shape": {str(i): size for i, size in enumerate(array.shape)},
        "chunks": {str(i): leaf(chunk) for i, chunk in enumerate(chunks)},
    }
    return pack(described)


def record(name: str, value: bytes) -> bytes:
    return pack((name.split("/"), value))


def write(
    path: Path, params: Params, *, packed: Callable[[np.ndarray], bytes] = whole, prefix: str = ""
) -> Path:
    path.write_bytes(b"".join(record(prefix + name, packed(array)) for name, array in params.items()))
    return path


def logits(
    params: Params, tokens: np.ndarray, is_vision: np.ndarray, *, heads: int, theta: float, eps: float
) -> np.ndarray:
    """LWM's forward pass in float64: text scores, then vision scores; ids of vision begin at 0 as there."""
    params = {name: array.astype(np.float64) for name, array in params.items()}
    x = params["transformer/wte/embedding"][np.where(is_vision, 0, tokens)]
    if "transformer/vte/embedding" in params:
        vision = params["transformer/vte/embedding"][np.where(is_vision, tokens, 0)]
        x = np.where(is_vision[..., None], vision, x)
    batch, seq, embed = x.shape
    width = embed // heads
    angles = np.outer(np.arange(seq), theta ** (-np.arange(0, width, 2) / width))
    rotation = np.exp(1j * angles)[None, :, None]
    hidden_from = np.triu(np.full((seq, seq), -np.inf), 1)

    def normed(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + eps) * scale

    def rotated(x: np.ndarray) -> np.ndarray:
        pairs = x.reshape(batch, seq, heads, width // 2, 2)
        turned = (pairs[..., 0] + 1j * pairs[..., 1]) * rotation
        return np.stack([turned.real, turned.imag], axis=-1).reshape(batch, seq, heads, width)

    layer = 0
    while (at := f"transformer/h/{layer}/") + "attention/wq/kernel" in params:
        part = {name: params[at + name] for name in PARTS}
        y = normed(x, part["attention_norm/kernel"])
        q, k, v = (
            (y @ part[f"attention/{name}/kernel"]).reshape(batch, seq, heads, width)
            for name in ("wq", "wk", "wv")
        )
        scores = np.einsum("bqhd,bkhd->bhqk", rotated(q), rotated(k)) / np.sqrt(width) + hidden_from
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        out = np.einsum("bhqk,bkhd->bqhd", weights, v).reshape(batch, seq, embed)
        x = x + out @ part["attention/wo/kernel"]
        y = normed(x, part["ffn_norm/kernel"])
        gate = y @ part["feed_forward/w1/kernel"]
        up = gate / (1 + np.exp(-gate)) * (y @ part["feed_forward/w3/kernel"])
        x = x + up @ part["feed_forward/w2/kernel"]
        layer += 1
    x = normed(x, params["transformer/ln_f/kernel"])
    output_heads = [params[name] for name in ("lm_head/kernel", "vision_head/kernel") if name in params]
    return np.concatenate([x @ head for head in output_heads], axis=-1)
