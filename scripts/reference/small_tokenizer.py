"""Trains the small tokenizer of the tests: SmolLM2's pipeline, special tokens and chat template with 600 tokens.

    python small_tokenizer.py OUT_FOLDER     (tokenizers 0.23.3; writes tokenizer.json, tokenizer_config.json)

Byte-level BPE after splitting off every digit, as HuggingFaceTB/SmolLM2-135M-Instruct has it; the 17 special tokens come
first, so that ids 0, 1 and 2 mean what they mean there. The 21 bytes that SmolLM2's vocabulary lacks are left out too.
"""
import json
import sys
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL = """<|endoftext|> <|im_start|> <|im_end|> <repo_name> <reponame> <file_sep> <filename> <gh_stars> <issue_start>
<issue_comment> <issue_closed> <jupyter_start> <jupyter_text> <jupyter_code> <jupyter_output> <jupyter_script>
<empty_output>""".split()

TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# As the characters that stand for them: 0x04, 0x06, 0x13, 0x14, 0x16, 0x1d, 0xc0, 0xc1, 0xf1, 0xf2, 0xf5 to 0xff.
MISSING = "ĄĆēĔĖĝÀÁñòõö÷øùúûüýþÿ"

# Enough English for real merges, some code, and a little of other scripts.
TEXT = """You are a helpful AI assistant named SmolLM, trained by Hugging Face. The user asks and the assistant answers.
What is the capital of France? The capital of France is Paris. It depends on many things, and there are several answers.
How do I boil an egg? Put the egg in boiling water for seven minutes, then cool it under cold water and peel it.
Write a function that adds two numbers. def add(a, b): return a + b  # that's all; it isn't hard, they're numbers
Why is the sky blue? Because air scatters blue light more than red light; I'd say we've known that since 1871.
Please tell me a short story about a dog. Once upon a time there was a dog who lived in the house of an old man.
Thank you for the question! I do not know the answer, but you could ask somebody else. First, second, third, then.
The quick brown fox jumps over the lazy dog. Système, café, naïve, Straße, Привет мир, 你好世界, こんにちは, 안녕하세요."""


def main(out: Path) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set(MISSING))
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT.splitlines(), trainer)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 8192,
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "chat_template": TEMPLATE,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


main(Path(sys.argv[1]))
