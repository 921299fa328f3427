"""Byte-level BPE with the `qwen2` pre-tokenizer: trained here, or read back from a GGUF file.

The pre-tokenizer's pattern splits digits singly and is the one llama.cpp applies for tokenizer.ggml.pre = "qwen2",
so that llama.cpp tokenises exactly as the model was trained (tests/models checks it).
"""
import lzma

import gguf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
           r"|\s*[\r\n]+|\s+(?!\S)|\s+")
BOS, EOS = "<|bos|>", "<|eos|>"


def open_text(path):
    return lzma.open(path, "rt", encoding="utf-8") if path.endswith(".xz") else open(path, encoding="utf-8")


def _dress(tok):
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    return tok


def train_tokenizer(text_path, vocab_size=4096, sample_bytes=40_000_000):
    """A new tokenizer from the first `sample_bytes` of a text file."""
    tok = _dress(Tokenizer(models.BPE()))
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[BOS, EOS], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())

    def pieces():
        with open_text(text_path) as f:
            left = sample_bytes
            while left > 0 and (block := f.read(1 << 16)):
                left -= len(block)
                yield block

    tok.train_from_iterator(pieces(), trainer)
    return tok


def from_gguf(path):
    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
    types = fields["tokenizer.ggml.token_type"].contents()
    tok = _dress(Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges)))
    special = [t for t, kind in zip(tokens, types) if kind == gguf.TokenType.CONTROL]
    tok.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
    return tok
