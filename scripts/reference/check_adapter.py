"""Checks that PEFT loads an adapter saved here and computes our logits.

    tsx scripts/dump-logits.ts --base FOLDER --adapter ADAPTER --out logits.safetensors
    python check_adapter.py --base FOLDER --adapter ADAPTER --logits logits.safetensors     (peft 0.21.2, transformers 5.23)

Prints the largest absolute difference and how far the adapter moves the base's logits; fails where the first is above
--tolerance, or where PEFT misses a tensor or does not know one.
"""
import argparse
import sys
import warnings
from pathlib import Path

import torch
from peft import PeftModel
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--logits", type=Path, required=True)
    parser.add_argument("--tolerance", type=float, default=1e-3)
    args = parser.parse_args()
    warnings.filterwarnings("error", message=".*(missing|unexpected|unknown).*")
    ours = load_file(args.logits)
    base = AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.float32).eval()
    sequences = [ours[name].long()[None] for name in sorted(ours) if name.startswith("ids.")]
    with torch.no_grad():
        before = [base(ids).logits[0] for ids in sequences]
        model = PeftModel.from_pretrained(base, args.adapter).eval()
        after = [model(ids).logits[0] for ids in sequences]
    saved = load_file(args.adapter / "adapter_model.safetensors")
    loaded = get_peft_model_state_dict(model)
    if set(saved) != set(loaded) or any(not torch.equal(saved[name], loaded[name]) for name in saved):
        sys.exit(f"PEFT's tensors are not the file's: {sorted(set(saved) ^ set(loaded))[:10]}")
    worst = max((ours[f"logits.{i}"] - logits).abs().max().item() for i, logits in enumerate(after))
    moved = max((a - b).abs().max().item() for a, b in zip(after, before))
    print(f"{len(saved)} tensors, largest difference {worst:.2e}, the adapter moves logits by up to {moved:.2e}")
    if not worst <= args.tolerance:
        sys.exit(f"differs by more than {args.tolerance}")


main()
