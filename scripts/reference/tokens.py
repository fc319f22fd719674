"""Ids of odd texts and rendered conversations, as transformers gives them.

    python tokens.py MODEL_FOLDER ODD_PAIRS_JSON OUT_JSON     (transformers 5.23.0, tokenizers 0.23.3, jinja2 3.1.6)

ODD_PAIRS_JSON is test/fixtures/data/odd-pairs.json; its texts, pieces of them and pseudo-random strings are encoded
with and without special tokens and decoded again; its conversations are rendered with and without generation prompt.
`withSpecials`, `decoded` and `bare` (decoded without special tokens) stand only where they differ from ids, text, decoded.
"""
import json
import random
import sys

from transformers import AutoTokenizer

RANGES = [(0x20, 0x7F)] * 6 + [(1, 0x20), (0x80, 0x250), (0x300, 0x370), (0x400, 0x600), (0x600, 0x700), (0x900, 0xE00),
          (0x1000, 0x1400), (0x2000, 0x2070), (0x2150, 0x2190), (0x2460, 0x2500), (0x3000, 0x3100), (0x4E00, 0x5000),
          (0xFE00, 0xFF00), (0x10000, 0x10400), (0x1F300, 0x1FA00), (0x40000, 0x80000)]


def odd_strings(count: int) -> list[str]:
    rnd = random.Random(7)

    def character() -> str:
        return chr(rnd.randrange(*rnd.choice(RANGES)))

    return ["".join(character() for _ in range(rnd.randint(1, 16))) for _ in range(count)]


def conversations(pairs: dict) -> list[list[dict]]:
    texts = [[{"role": "user", "content": p["prompt"]}, {"role": "assistant", "content": p["chosen"]}] for p in pairs["texts"][::6]]
    return texts + [p["prompt"] for p in pairs["conversations"]] + [p["prompt"] + p["rejected"] for p in pairs["conversations"]]


def main(folder: str, pairs_path: str, out: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pairs = json.load(open(pairs_path))
    texts = [pair[part] for pair in pairs["texts"] for part in ("prompt", "chosen", "rejected")]
    texts += odd_strings(60) + ["", " ", "\n\n1.", "<|im_end|>", "a<|im_start|>b<|endoftext|>"]
    encoded = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        decoded = tokenizer.decode(ids)
        row = {"text": text, "ids": ids}
        # Only what is not as expected is written, to keep the file small.
        row |= {"withSpecials": tokenizer(text)["input_ids"]} if tokenizer(text)["input_ids"] != ids else {}
        row |= {"decoded": decoded} if decoded != text else {}
        bare = tokenizer.decode(ids, skip_special_tokens=True)
        row |= {"bare": bare} if bare != decoded else {}
        encoded.append(row)
    rendered = [
        {
            "messages": messages,
            "addGenerationPrompt": generation,
            "rendered": tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation),
        }
        for messages in conversations(pairs)
        for generation in (False, True)
    ]
    special = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    json.dump({"special": special, "encoded": encoded, "rendered": rendered}, open(out, "w"), separators=(",", ":"))


main(*sys.argv[1:4])
