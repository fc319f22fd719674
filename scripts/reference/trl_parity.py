"""Runs TRL's ORPOTrainer and writes what it reports at every step.

    python trl_parity.py --base FOLDER --pairs pairs.jsonl --format plain|chat --out metrics.json --adapter FOLDER [options]
    (trl 1.16.0, transformers 5.23.0, peft 0.21.2, torch 2.15; fp32 on the CPU)

All pairs form each batch; dropout off; AdamW with torch's defaults and a linear schedule, as TRL's own defaults are.
The output holds the token ids as TRL made them (so that nothing hangs on a tokenizer), the options, and per step: loss,
nll_loss, grad_norm, learning_rate, log_odds_*, rewards/*, logps/* in full precision, and each pair's mean log-probabilities.
The adapter to start from is written by PEFT itself (--init peft: B normal with deviation 0.02), or computed from the
tensors' names (--init hash: see hash_values), so that a test can make the same one without a file.
"""
import argparse
import json
import zlib
from pathlib import Path

import numpy
import torch
import transformers
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl.experimental.orpo import ORPOConfig, ORPOTrainer


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, help="default: the base folder")
    parser.add_argument("--pairs", type=Path, required=True, help="jsonl of prompt, chosen, rejected")
    parser.add_argument("--format", choices=["plain", "chat"], required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--adapter", type=Path, help="where to write the initial adapter; none for full fine-tuning")
    parser.add_argument("--init", choices=["peft", "hash"], default="peft")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--alpha", type=int, default=16)
    parser.add_argument("--targets", default="all-linear")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--max-grad-norm", type=float, default=1.0)
    parser.add_argument("--beta", type=float, default=0.1)
    return parser.parse_args()


def mix(values: numpy.ndarray) -> numpy.ndarray:
    """murmur3's finaliser on uint32."""
    values = values ^ (values >> numpy.uint32(16))
    values = values * numpy.uint32(0x85EBCA6B)
    values = values ^ (values >> numpy.uint32(13))
    values = values * numpy.uint32(0xC2B2AE35)
    return values ^ (values >> numpy.uint32(16))


def hash_values(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """float32 in ±1/sqrt(columns) for A and ±0.02 for B, a function of name and index: mix(index + crc32(name))."""
    start = numpy.uint32(zlib.crc32(name.encode()))
    index = numpy.arange(int(numpy.prod(shape)), dtype=numpy.uint32) + start
    unit = mix(index).astype(numpy.float64) / 2**32 * 2 - 1
    bound = 0.02 if "lora_B" in name else shape[1] ** -0.5
    return torch.from_numpy((unit * bound).astype(numpy.float32)).reshape(shape)


def with_adapter(model, args: argparse.Namespace):
    targets = "all-linear" if args.targets == "all-linear" else args.targets.split(",")
    config = LoraConfig(r=args.rank, lora_alpha=args.alpha, target_modules=targets, task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    state = get_peft_model_state_dict(model)
    generator = torch.Generator().manual_seed(7)
    for name, value in state.items():
        if args.init == "hash":
            state[name] = hash_values(name, tuple(value.shape))
        elif "lora_B" in name:
            state[name] = 0.02 * torch.randn(value.shape, generator=generator)
    set_peft_model_state_dict(model, state)
    if args.adapter:
        model.save_pretrained(args.adapter)
    return model


def rows_of(args: argparse.Namespace) -> list[dict]:
    rows = [json.loads(line) for line in args.pairs.read_text().splitlines() if line.strip()]
    if args.format == "plain":
        return [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows]
    message = lambda role, text: [{"role": role, "content": text}]
    return [
        {
            "prompt": message("user", row["prompt"]),
            "chosen": message("assistant", row["chosen"]),
            "rejected": message("assistant", row["rejected"]),
        }
        for row in rows
    ]


class Recorder(ORPOTrainer):
    """Keeps each step's metrics unrounded, and each pair's log-probabilities."""

    records: list[dict]
    order: list[list[int]]

    def concatenated_forward(self, model, batch):
        result = super().concatenated_forward(model, batch)
        self.pair_logps = (result[0].detach().tolist(), result[1].detach().tolist())
        return result

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, metrics = super().compute_loss(model, inputs, return_outputs=True)
        rows = [self.row_of[tuple(ids)] for ids in self.prompt_ids(inputs)]
        self.parts.append({"loss": loss.item(), **metrics, "rows": rows, "pairs": self.pair_logps})
        return (loss, metrics) if return_outputs else loss

    def prompt_ids(self, inputs):
        for ids, mask in zip(inputs["chosen_input_ids"], inputs["chosen_attention_mask"]):
            yield ids[mask.bool()].tolist()


class KeepNorm(TrainerCallback):
    def __init__(self, records: list[dict]):
        self.records = records

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "grad_norm" in logs:
            self.records.append({"grad_norm": float(logs["grad_norm"]), "learning_rate": logs["learning_rate"]})


def main() -> None:
    args = arguments()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    rows = rows_of(args)
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer or args.base)
    model = AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.float32)
    if args.adapter or args.init == "hash":
        model = with_adapter(model, args)
    logged: list[dict] = []
    trainer = Recorder(
        model=model,
        args=ORPOConfig(
            output_dir=str(args.out) + ".trainer",
            per_device_train_batch_size=len(rows) // args.accumulation,
            gradient_accumulation_steps=args.accumulation,
            max_steps=args.steps,
            learning_rate=args.learning_rate,
            weight_decay=args.weight_decay,
            max_grad_norm=args.max_grad_norm,
            beta=args.beta,
            max_length=2048,
            logging_steps=1,
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
        ),
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(rows),
        callbacks=[KeepNorm(logged)],
    )
    pairs = [
        {"row": index + 1, **{side: sequence(row, side) for side in ("chosen", "rejected")}}
        for index, row in enumerate(trainer.train_dataset)
    ]
    trainer.row_of = {tuple(pair["chosen"]["ids"]): pair["row"] for pair in pairs}
    trainer.parts = []
    trainer.train()
    steps = [step(logged[i], trainer.parts[i * args.accumulation : (i + 1) * args.accumulation]) for i in range(args.steps)]
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    options = {key: value for key, value in vars(args).items() if not isinstance(value, Path) and value is not None}
    args.out.write_text(dump({"versions": versions, "options": options, "pairs": pairs, "steps": steps}))


def sequence(row: dict, side: str) -> dict:
    prompt = sum(1 for label in row[f"{side}_labels"] if label == -100)
    return {"ids": row[f"{side}_input_ids"], "promptLength": prompt}


def step(logged: dict, parts: list[dict]) -> dict:
    """A step's values: means over its micro-batches, as the trainer logs them."""
    names = [name for name in parts[0] if name not in ("rows", "pairs") and not name.startswith("logits")]
    means = {name: sum(part[name] for part in parts) / len(parts) for name in names}
    by_row = {
        row: [chosen, rejected] for part in parts for row, chosen, rejected in zip(part["rows"], *part["pairs"])
    }
    micro_batches = [part["rows"] for part in parts]
    return {**means, **logged, "logps": [by_row[row] for row in sorted(by_row)], "microBatches": micro_batches}


def dump(result: dict) -> str:
    """JSON with one pair and one step a line."""
    lines = lambda items: ",\n".join(json.dumps(item, separators=(",", ":")) for item in items)
    head = json.dumps({"versions": result["versions"], "options": result["options"]}, indent=1)[:-2]
    return f'{head},\n "pairs": [\n{lines(result["pairs"])}\n ],\n "steps": [\n{lines(result["steps"])}\n ]\n}}\n'


main()
