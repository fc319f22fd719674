"""Logits of transformers for a real base model, at every 512th vocabulary id.

    python logits.py --base FOLDER --texts texts.jsonl --out OUT.safetensors     (transformers 5.23, torch 2.15, fp32)

texts.jsonl: one JSON object a line; the values of "prompt" and "chosen" are joined. Writes per text ids.N [T], the logits of
ids 0, 512, 1024, … as sampled.N [T, S], and logsumexp.N and max.N [T] over the whole vocabulary.
"""
import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

EVERY = 512


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=3)
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.base)
    model = AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.float32).eval()
    tensors = {}
    for index, line in enumerate(args.texts.read_text().splitlines()[: args.count]):
        row = json.loads(line)
        ids = tokenizer(row["prompt"] + "\n" + row["chosen"], return_tensors="pt").input_ids
        with torch.no_grad():
            logits = model(ids).logits[0]
        tensors[f"ids.{index}"] = ids[0].to(torch.int32)
        tensors[f"sampled.{index}"] = logits[:, ::EVERY].contiguous()
        tensors[f"logsumexp.{index}"] = torch.logsumexp(logits, -1)
        tensors[f"max.{index}"] = logits.max(-1).values
    save_file(tensors, args.out)


main()
