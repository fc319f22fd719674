"""Makes the tests' tiny random Llama and what transformers and torch compute with it.

    python tiny_llama.py TOKENIZER_FOLDER OUT_FOLDER [--untied]     (torch 2.15, transformers 5.23, safetensors 0.8)

Writes OUT_FOLDER/{config.json,model.safetensors} and OUT_FOLDER/reference.safetensors: token ids of three sequences of
unequal length, their logits [T, V], and (untied only, to keep files small) the gradient of every parameter of the mean
negative log-likelihood over all their next tokens. Weights are stored as bfloat16 and computed with as float32. Head size
differs from hidden/heads, queries share keys in groups, nothing is symmetric.
"""
import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

LENGTHS = [4, 7, 3]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--untied", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(1)
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        rms_norm_eps=1e-5,
        rope_theta=100000.0,
        tie_word_embeddings=not args.untied,
        initializer_range=0.25,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
            parameter.copy_(parameter.bfloat16())
    args.out.mkdir(parents=True, exist_ok=True)
    write_reference(model, args.out, gradients=args.untied)
    model.bfloat16().save_pretrained(args.out)
    (args.out / "generation_config.json").unlink()


def write_reference(model: LlamaForCausalLM, out: Path, gradients: bool) -> None:
    model.train()
    rows = [torch.randint(3, model.config.vocab_size, (length,)) for length in LENGTHS]
    tensors = {}
    total = torch.zeros(())
    for index, row in enumerate(rows):
        logits = model(row[None]).logits[0]
        total = total + torch.nn.functional.cross_entropy(logits[:-1], row[1:], reduction="sum")
        tensors[f"ids.{index}"] = row.to(torch.int32)
        tensors[f"logits.{index}"] = logits.detach().contiguous()
    loss = total / sum(length - 1 for length in LENGTHS)
    loss.backward()
    tensors["loss"] = loss.detach().reshape(1)
    for name, parameter in model.named_parameters() if gradients else []:
        tensors[f"gradient.{name}"] = parameter.grad.contiguous()
    save_file(tensors, out / "reference.safetensors")
    print(json.dumps({"loss": loss.item(), "parameters": sum(p.numel() for p in model.parameters())}))


main()
