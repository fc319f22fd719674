"""Writes small GGUF files, one for each supported `tokenizer.ggml.pre`, and the ids that their text pipelines give.

    python gguf_tokenizers.py OUT_FOLDER

Pinned: gguf 0.19.0, tokenizers 0.22 or later. The pipelines are llama.cpp's (src/llama-vocab.cpp, the regular expressions of
each pre-tokenizer), built here in Hugging Face tokenizers; smollm's is that of SmolLM2's own tokenizer.json. Each BPE is
trained on this file's sample text with its own pipeline. Writes tokenizer-<pre>.gguf and tokenizers.expected.json;
tokenizer-smollm.gguf is a whole tiny Llama (random weights, queries and keys permuted as llama.cpp's converter does), whose
weights under Hugging Face names stand in tiny-llama.expected.safetensors.
"""
import json
import sys
from pathlib import Path

import numpy as np
from gguf import GGUFWriter
from safetensors.numpy import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SAMPLE = """The user asks and the assistant answers; it's short, and they'll say 12345 is 12,345. We've seen that I'm here.
def answer(question):\n    return question.strip()\n\n\nÀ bientôt, naïve café! 你好，世界。 Привет 123 мир ½ ٣٤ don't DON'T it's
system user assistant question answer question answer the the the and and 2024 2025 100 1000 in on at to of for with"""
TEXTS = [
    "", " ", "  two  spaces ", "Hello, world!", "it's IT'S we'Ve don't", "1234567 and 3.14", "a1b22c333d4444",
    "\n\n1. First\n2.  Second\r\n\r\n\tTabbed", "café cafe\u0301 naïve", "你好，世界 日本語テキスト", "🦆👩‍👩‍👧 flags 🇫🇷",
    "٣٤ ½ Ⅷ ²", "$1,000.00 + <tag> = ~x^2 | y", "<|im_start|>user\nhi<|im_end|>\n", "x<|endoftext|>y", "...!!!???---",
    "trailing space ", "\u00a0no-break\u2003em", "question answers", "Привет, мир",
]


def byte_level(use_regex):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


PIPELINES = {
    "smollm": [pre_tokenizers.Digits(individual_digits=True), byte_level(True)],
    "gpt-2": [byte_level(True)],
    "default": [split(r"[\p{P}\$\+<=>\^~\|]+"), split(GPT2), split(r"\p{N}+"), split("[0-9][0-9][0-9]"), byte_level(False)],
    "llama-bpe": [split(LLAMA3), byte_level(False)],
    "qwen2": [split(QWEN2), byte_level(False)],
}


def build(pre, vocab=None, merges=None):
    model = models.BPE(vocab=vocab, merges=merges, ignore_merges=pre == "llama-bpe") if vocab else models.BPE()
    tokenizer = Tokenizer(model)
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(PIPELINES[pre])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def train(pre):
    tokenizer = build(pre)
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([SAMPLE] * 3, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    vocab = model["vocab"]
    merges = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in model["merges"]]
    # Rebuilt from vocabulary and merges alone, as a GGUF file carries them.
    rebuilt = build(pre, vocab, merges)
    rebuilt.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return rebuilt, sorted(vocab, key=vocab.get), merges


def permute(weights, heads):
    """convert_hf_to_gguf.py, LlamaModel.permute."""
    rows = weights.shape[0]
    return weights.reshape(heads, 2, rows // heads // 2, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)


def add_tiny_llama(writer, vocab_size, out):
    random = np.random.default_rng(11)
    hidden, inner, heads, kv_heads, size = 16, 32, 4, 2, 4

    def normal(*shape):
        return random.standard_normal(shape).astype(np.float32)

    layer = "model.layers.0."
    weights = {
        "model.embed_tokens.weight": normal(vocab_size, hidden),
        "model.norm.weight": normal(hidden),
        layer + "input_layernorm.weight": normal(hidden),
        layer + "self_attn.q_proj.weight": normal(heads * size, hidden),
        layer + "self_attn.k_proj.weight": normal(kv_heads * size, hidden),
        layer + "self_attn.v_proj.weight": normal(kv_heads * size, hidden),
        layer + "self_attn.o_proj.weight": normal(hidden, heads * size),
        layer + "post_attention_layernorm.weight": normal(hidden),
        layer + "mlp.gate_proj.weight": normal(inner, hidden),
        layer + "mlp.up_proj.weight": normal(inner, hidden),
        layer + "mlp.down_proj.weight": normal(hidden, inner),
    }
    names = dict(zip(weights, [
        "token_embd", "output_norm", "blk.0.attn_norm", "blk.0.attn_q", "blk.0.attn_k", "blk.0.attn_v", "blk.0.attn_output",
        "blk.0.ffn_norm", "blk.0.ffn_gate", "blk.0.ffn_up", "blk.0.ffn_down",
    ]))
    for name, values in weights.items():
        if name.endswith("q_proj.weight"):
            values = permute(values, heads)
        if name.endswith("k_proj.weight"):
            values = permute(values, kv_heads)
        writer.add_tensor(names[name] + ".weight", np.ascontiguousarray(values))
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(100000.0)
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    save_file(weights, out / "tiny-llama.expected.safetensors")


def main(out: Path) -> None:
    expected = {}
    for pre in PIPELINES:
        tokenizer, tokens, merges = train(pre)
        writer = GGUFWriter(out / f"tokenizer-{pre}.gguf", "llama")
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(tokens)
        writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
        writer.add_token_merges([" ".join(pair) for pair in merges])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_pad_token_id(2)
        writer.add_unk_token_id(0)
        writer.add_add_bos_token(False)
        if pre == "smollm":
            add_tiny_llama(writer, len(tokens), out)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        expected[pre] = [tokenizer.encode(text).ids for text in TEXTS]
    text = json.dumps({"texts": TEXTS, "ids": expected}, ensure_ascii=False)
    (out / "tokenizers.expected.json").write_text(text + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
