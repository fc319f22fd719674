"""Writes one GGUF file with a tensor of every block format and a key of every metadata type, and what they mean.

    python gguf_quants.py OUT_FOLDER

Pinned: gguf 0.19.0, numpy 2, safetensors 0.6 or later. Blocks are random bytes with finite scales; the values come from the
gguf package's own dequantize. Writes quants.gguf, quants.expected.safetensors and metadata.expected.json.
"""
import json
import sys
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import GGUFValueType as V
from gguf import GGUFWriter
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize
from safetensors.numpy import save_file

# Byte offsets of the float16 scales within a block.
SCALES = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q4_K: [0, 2], T.Q6_K: [208],
}
METADATA = [
    ("t.u8", V.UINT8, 255), ("t.i8", V.INT8, -128), ("t.u16", V.UINT16, 65535), ("t.i16", V.INT16, -32768),
    ("t.u32", V.UINT32, 4294967295), ("t.i32", V.INT32, -2147483648), ("t.f32", V.FLOAT32, 1.5), ("t.bool", V.BOOL, True),
    ("t.string", V.STRING, "Ġ héllo \n 🦆"), ("t.u64", V.UINT64, 2**53 - 1), ("t.i64", V.INT64, -(2**53 - 1)),
    ("t.f64", V.FLOAT64, 0.1),
]


def blocks(kind: T, count: int, random: np.random.Generator) -> np.ndarray:
    _, size = GGML_QUANT_SIZES[kind]
    data = random.integers(0, 256, (count, size), dtype=np.uint8)
    for at in SCALES[kind]:
        scales = (random.standard_normal(count) * 0.02).astype(np.float16)
        data[:, at : at + 2] = scales.view(np.uint8).reshape(count, 2)
    return data.reshape(2, -1)  # two rows


def main(out: Path) -> None:
    random = np.random.default_rng(7)
    writer = GGUFWriter(out / "quants.gguf", "none")
    for key, kind, value in METADATA:
        writer.add_key_value(key, value, kind)
    writer.add_key_value("t.big", 2**64 - 1, V.UINT64)
    writer.add_array("t.ints", [1, -2, 3])
    writer.add_array("t.strings", ["a", "", "ü"])
    writer.add_array("t.floats", [0.5, -0.25])
    writer.add_array("t.bools", [True, False])
    writer.add_array("t.nested", [[1, 2], [3]])
    expected = {}
    for kind in SCALES:
        data = blocks(kind, 4, random)
        writer.add_tensor(kind.name, data, raw_dtype=kind)
        expected[kind.name] = dequantize(data, kind).astype(np.float32)
    plain = random.standard_normal((3, 5)).astype(np.float32)
    writer.add_tensor("F32", plain)
    expected["F32"] = plain
    writer.add_tensor("F16", plain.astype(np.float16))
    expected["F16"] = plain.astype(np.float16).astype(np.float32)
    brain = (plain.view(np.uint32) >> 16).astype(np.uint16)
    writer.add_tensor("BF16", brain.view(np.uint8), raw_dtype=T.BF16)
    expected["BF16"] = (brain.astype(np.uint32) << 16).view(np.float32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(expected, out / "quants.expected.safetensors")
    values = {key: value for key, _, value in METADATA}
    lists = {
        "t.ints": [1, -2, 3], "t.strings": ["a", "", "ü"], "t.floats": [0.5, -0.25], "t.bools": [True, False],
        "t.nested": [[1, 2], [3]],
    }
    text = json.dumps({**values, **lists}, ensure_ascii=False, indent=2)
    (out / "metadata.expected.json").write_text(text + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
