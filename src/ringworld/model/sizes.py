"""Published sizes of models, each once; without importing jax."""

from dataclasses import replace
from typing import Final

from ringworld.model.config import Architecture, Llama3, Rope


def _lwm(layers: int, embed: int, heads: int, mlp: int, *, norm_eps: float = 1e-6) -> Architecture:
    return Architecture(
        layers=layers,
        embed=embed,
        heads=heads,
        kv_heads=heads,
        head=embed // heads,
        mlp=mlp,
        text_vocab=32_000,
        norm_eps=norm_eps,
    )


LWM_SIZES: Final = {
    "debug": _lwm(2, 256, 2, 256),
    "200m": _lwm(14, 1024, 8, 2048),
    "1b": _lwm(22, 2048, 16, 5504),
    "3b": _lwm(26, 3200, 32, 8640),
    "7b": _lwm(32, 4096, 32, 11_008),
    "13b": _lwm(40, 5120, 40, 13_824),
    "30b": _lwm(60, 6656, 52, 17_920),
    "65b": _lwm(80, 8192, 64, 22_016, norm_eps=1e-5),
}
"""`LLAMA_STANDARD_CONFIGS` of LWM's code (`lwm/llama.py`), of text: LLaMA's sizes, and two smaller ones."""
LLAMA_2_7B: Final = replace(LWM_SIZES["7b"], norm_eps=1e-5)
"""The model that the paper begins from, as its own `config.json` says."""
LLAMA_3_1_8B: Final = Architecture(
    layers=32,
    embed=4096,
    heads=32,
    kv_heads=8,
    head=128,
    mlp=14_336,
    text_vocab=128_256,
    rope=Rope(base=5e5, scaling=Llama3(factor=8.0)),
    norm_eps=1e-5,
)
"""As the `config.json` of meta-llama/Llama-3.1-8B says: 128K tokens."""
