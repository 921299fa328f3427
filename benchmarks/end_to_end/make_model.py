#!/usr/bin/env python3
"""Writes a llama-architecture GGUF with random weights and a byte-level vocabulary.

Speed does not depend on what the weights say, only on their shapes and types, so these stand in for real models where a
benchmark needs a shape that cannot be downloaded. The text they produce is noise.

    make_model.py --shape attn12m out.gguf
    make_model.py --shape 1b --type q4_0 out.gguf
    make_model.py --shape moe64 out.gguf
    make_model.py --layers 2 --width 4096 --heads 32 --kv-heads 8 --ffn 14336 out.gguf
"""

import argparse
import sys

import gguf
import numpy as np

SHAPES = {
    # name: layers, width, heads, KV heads, head size, FFN, vocabulary, weight type
    "tiny": (2, 64, 4, 2, 16, 128, 512, "f16"),
    "attn12m": (4, 512, 8, 2, 64, 1152, 4096, "f16"),  # 12M parameters: attention dominates beyond 2K keys
    "1b": (16, 2048, 32, 8, 64, 8192, 32000, "q4_0"),  # Llama-3.2-1B's layers
    "8b-4l": (4, 4096, 32, 8, 128, 14336, 32000, "q4_0"),  # four layers of Llama-3-8B: multiply a layer's cost by 8
    "moe8": (2, 2048, 32, 8, 64, 7168, 4096, "q4_0"),  # like Mixtral at half its width: 2 of 8 experts
    "moe64": (4, 2048, 32, 8, 64, 1024, 4096, "q4_0"),  # 8 of 64 small experts
    "moe128": (4, 2048, 32, 4, 128, 768, 4096, "q4_0"),  # four layers of Qwen3-30B-A3B: 8 of 128 experts
}
EXPERTS = {"moe8": (8, 2), "moe64": (64, 8), "moe128": (128, 8)}  # experts of a layer, those of a token
WEIGHT_TYPES = {
    "f32": gguf.GGMLQuantizationType.F32,
    "f16": gguf.GGMLQuantizationType.F16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
    "q4_0": gguf.GGMLQuantizationType.Q4_0,
}
BLOCK = 32


def random_matrix(rng, rows, columns, kind):
    """A rows × columns matrix with entries of about 1/sqrt(columns), as the bytes of the given type."""
    sigma = columns**-0.5
    if kind in ("f32", "f16"):
        return (rng.standard_normal((rows, columns), dtype=np.float32) * sigma).astype(np.float32 if kind == "f32" else np.float16)
    # Random quants under one scale: the same bytes per weight and the same arithmetic as a quantised matrix.
    payload, level_sigma = (BLOCK, 74.0) if kind == "q8_0" else (BLOCK // 2, 4.6)
    blocks = np.empty((rows, columns // BLOCK, 2 + payload), dtype=np.uint8)
    blocks[:, :, :2] = np.frombuffer(np.float16(sigma / level_sigma).tobytes(), dtype=np.uint8)
    blocks[:, :, 2:] = np.frombuffer(rng.bytes(rows * (columns // BLOCK) * payload), dtype=np.uint8).reshape(rows, -1, payload)
    return blocks.reshape(rows, -1)


def byte_characters():
    """GPT-2's byte alphabet: printable bytes stand for themselves, the others for code points from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


def add_vocabulary(writer, size):
    tokens = ["<|begin|>", "<|end|>", *byte_characters()]
    tokens += [f"<|filler-{i}|>" for i in range(size - len(tokens))]
    control = [gguf.TokenType.CONTROL] * 2
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(control + [gguf.TokenType.NORMAL] * 256 + [gguf.TokenType.UNUSED] * (size - 258))
    writer.add_token_merges(["\u0120 t"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(True)


def random_router(rng, experts, width, skew):
    """Rows of lengths that differ by a log-normal factor: experts with long ones are chosen more often, as in trained models, each layer's in its own order."""
    lengths = np.exp(skew * rng.standard_normal((experts, 1), dtype=np.float32)) if skew else 1.0
    return random_matrix(rng, experts, width, "f32") * lengths


def write_model(path, layers, width, heads, kv_heads, head_size, ffn, vocabulary, kind, context, seed, texts=True, experts=(0, 0), skew=0.0):
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("atlas-random-weights")
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(head_size)
    writer.add_rope_freq_base(500000.0)
    writer.add_vocab_size(vocabulary)
    if experts[0]:
        writer.add_expert_count(experts[0])
        writer.add_expert_used_count(experts[1])
    if texts:
        add_vocabulary(writer, vocabulary)
    else:
        writer.add_tokenizer_model("no_vocab")

    def matrix(name, rows, columns):
        writer.add_tensor(name, random_matrix(rng, rows, columns, kind), raw_dtype=WEIGHT_TYPES[kind])

    def expert_matrices(name, rows, columns):
        bytes_of = np.stack([random_matrix(rng, rows, columns, kind) for _ in range(experts[0])])
        writer.add_tensor(name, bytes_of, raw_dtype=WEIGHT_TYPES[kind])

    def norm(name):
        writer.add_tensor(name, np.ones(width, dtype=np.float32))

    if skew:
        # Long rows, so that what a router sees is the token more than what all tokens have in common; the next token is then another one.
        rows = random_matrix(rng, vocabulary, width, "f16") * np.float16(16)
        writer.add_tensor("token_embd.weight", rows, raw_dtype=WEIGHT_TYPES["f16"])
        matrix("output.weight", vocabulary, width)
    else:
        matrix("token_embd.weight", vocabulary, width)
    norm("output_norm.weight")
    for layer in range(layers):
        prefix = f"blk.{layer}."
        norm(prefix + "attn_norm.weight")
        norm(prefix + "ffn_norm.weight")
        matrix(prefix + "attn_q.weight", heads * head_size, width)
        matrix(prefix + "attn_k.weight", kv_heads * head_size, width)
        matrix(prefix + "attn_v.weight", kv_heads * head_size, width)
        matrix(prefix + "attn_output.weight", width, heads * head_size)
        if experts[0]:
            writer.add_tensor(prefix + "ffn_gate_inp.weight", random_router(rng, experts[0], width, skew))
            expert_matrices(prefix + "ffn_gate_exps.weight", ffn, width)
            expert_matrices(prefix + "ffn_up_exps.weight", ffn, width)
            expert_matrices(prefix + "ffn_down_exps.weight", width, ffn)
            continue
        matrix(prefix + "ffn_gate.weight", ffn, width)
        matrix(prefix + "ffn_up.weight", ffn, width)
        matrix(prefix + "ffn_down.weight", width, ffn)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output")
    parser.add_argument("--shape", choices=SHAPES, default="attn12m", help="preset; the options below override its numbers")
    parser.add_argument("--experts", type=int, help="experts of a layer, 0: none")
    parser.add_argument("--experts-used", type=int, help="those of a token")
    for option in ("layers", "width", "heads", "kv-heads", "head-size", "ffn", "vocabulary"):
        parser.add_argument(f"--{option}", type=int)
    parser.add_argument("--type", choices=WEIGHT_TYPES)
    parser.add_argument("--skew", type=float, default=0.0, help="how unevenly experts are chosen: sigma of their routers' lengths (default: evenly)")
    parser.add_argument("--context", type=int, default=1 << 20)
    parser.add_argument("--no-vocabulary", action="store_true", help="token numbers without texts, as test programs use them")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    preset = SHAPES[args.shape]
    given = (args.layers, args.width, args.heads, args.kv_heads, args.head_size, args.ffn, args.vocabulary, args.type)
    layers, width, heads, kv_heads, head_size, ffn, vocabulary, kind = (g if g is not None else p for g, p in zip(given, preset))
    if args.head_size is None and (args.width or args.heads):
        head_size = width // heads
    if heads % kv_heads:
        sys.exit(f"--heads {heads} is no multiple of --kv-heads {kv_heads}")
    if vocabulary < 258:
        sys.exit(f"--vocabulary {vocabulary}: at least 258 are needed (256 bytes, begin, end)")
    if kind in ("q8_0", "q4_0"):
        for name, value in (("width", width), ("ffn", ffn), ("heads × head size", heads * head_size)):
            if value % BLOCK:
                sys.exit(f"{name} {value}: {kind} needs multiples of {BLOCK}")
    experts = tuple(g if g is not None else p for g, p in zip((args.experts, args.experts_used), EXPERTS.get(args.shape, (0, 0))))
    if experts[0] and not 1 <= experts[1] <= experts[0]:
        sys.exit(f"--experts-used {experts[1]}: 1 to {experts[0]}")
    write_model(args.output, layers, width, heads, kv_heads, head_size, ffn, vocabulary, kind, args.context, args.seed,
                not args.no_vocabulary, experts, args.skew)


if __name__ == "__main__":
    main()
