"""Writes a safetensors file with every dtype that is read, and float32 numbers with their half-precision roundings.

    python safetensors_dtypes.py OUT_FOLDER

Pinned: torch 2.15, safetensors 0.6 or later. Writes dtypes.safetensors: tensors named by dtype, and round.f32 with torch's
round.f16 and round.bf16 of it (as their bits, I16), which hold ties, subnormals, overflow, infinities and NaN.
"""
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file


def cases() -> torch.Tensor:
    random = np.random.default_rng(3)
    scaled = random.standard_normal(400) * 10.0 ** random.integers(-9, 6, 400)
    edges = [0.0, -0.0, 1.0, 65504.0, 65519.99, 65520.0, -65520.0, 1e30, 2**-24, 2**-25, 1.0000001 * 2**-25, 1.5 * 2**-24]
    ties = [1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-8, 1 + 3 * 2**-8, 2**-14 - 2**-26, 2049.0, 2051.0, float("inf"), -float("inf")]
    return torch.tensor([*scaled, *edges, *ties, float("nan"), 3.4e38, 1e-45], dtype=torch.float32)


def main(out: Path) -> None:
    values = torch.tensor([[0.0, 1.0, -2.0], [3.0, 100.0, -128.0]])
    kinds = {
        "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64, "I8": torch.int8,
        "I16": torch.int16, "I32": torch.int32, "I64": torch.int64,
    }
    tensors = {name: values.to(kind) for name, kind in kinds.items()}
    tensors["U8"] = values.abs().to(torch.uint8)
    tensors["BOOL"] = values > 0
    tensors["scalar"] = torch.tensor(7.0)
    tensors["empty"] = torch.zeros(0, 4)
    rounded = cases()
    tensors["round.f32"] = rounded
    tensors["round.f16"] = rounded.to(torch.float16).view(torch.int16)
    tensors["round.bf16"] = rounded.to(torch.bfloat16).view(torch.int16)
    save_file(tensors, out / "dtypes.safetensors", metadata={"format": "pt", "note": "ünïcode"})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
