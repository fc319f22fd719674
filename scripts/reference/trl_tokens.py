"""Token ids and labels that TRL's ORPOTrainer makes of odd pairs, plain and chat.

    python trl_tokens.py MODEL_FOLDER ODD_PAIRS_JSON OUT_JSON   (trl 1.16.0, transformers 5.23.0, torch 2.15, datasets)

A real ORPOTrainer is built over a tiny random Llama with the folder's tokenizer, and its prepared dataset read back.
`plain` holds the text pairs as strings; `chat` the same texts as role lists, then the conversations. A pair is
[chosen ids, chosen prompt length, rejected ids, rejected prompt length]; null where TRL raises on the row.
"""
import json
import sys
import tempfile

from datasets import Dataset
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from trl.experimental.orpo import ORPOConfig, ORPOTrainer


def as_roles(pair: dict) -> dict:
    return {
        "prompt": [{"role": "user", "content": pair["prompt"]}],
        "chosen": [{"role": "assistant", "content": pair["chosen"]}],
        "rejected": [{"role": "assistant", "content": pair["rejected"]}],
    }


def packed(row: dict) -> list:
    result = []
    for side in ("chosen", "rejected"):
        ids, labels = row[f"{side}_input_ids"], row[f"{side}_labels"]
        prompt_length = next(i for i, label in enumerate(labels) if label != -100)
        assert labels[prompt_length:] == ids[prompt_length:] and set(labels[:prompt_length]) <= {-100}
        result += [ids, prompt_length]
    return result


def tokens_of(rows: list[dict], tokenizer, model) -> list:
    """Row by row, because one row on which TRL raises ends the whole trainer."""
    result = []
    for row in rows:
        with tempfile.TemporaryDirectory() as folder:
            config = ORPOConfig(output_dir=folder, max_length=100_000, report_to=[], use_cpu=True, bf16=False,
                                remove_unused_columns=False)
            try:
                trainer = ORPOTrainer(model=model, args=config, train_dataset=Dataset.from_list([row]), processing_class=tokenizer)
                result.append(packed(trainer.train_dataset[0]))
            except ValueError as error:
                print("refused:", json.dumps(row)[:100], "|", error, file=sys.stderr)
                result.append(None)
    return result


def main(folder: str, pairs_path: str, out: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8,
                                         num_hidden_layers=1, num_attention_heads=1))
    pairs = json.load(open(pairs_path))
    plain = tokens_of(pairs["texts"], tokenizer, model)
    chat = tokens_of([as_roles(pair) for pair in pairs["texts"]] + pairs["conversations"], tokenizer, model)
    json.dump({"plain": plain, "chat": chat}, open(out, "w"), separators=(",", ":"))


main(*sys.argv[1:4])
