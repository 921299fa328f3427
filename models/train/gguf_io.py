"""Model and tokenizer to a GGUF file that llama.cpp loads as `llama`, and back."""
import gguf
import numpy as np
import torch

from model import Config, Model

MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
NORMS = ("attn_norm", "ffn_norm")


def _pairs(w, heads, to_gguf):
    """Rows of one head between halves (i, i + d/2) and interleaved pairs (2i, 2i+1)."""
    rows, cols = w.shape
    shape = (heads, 2, rows // heads // 2, cols) if to_gguf else (heads, rows // heads // 2, 2, cols)
    return w.reshape(shape).swapaxes(1, 2).reshape(rows, cols)


def save(path, model, tokenizer, name, description=""):
    c = model.c
    w = gguf.GGUFWriter(path, "llama")
    w.add_name(name)
    w.add_description(description)
    w.add_license("MIT")
    w.add_context_length(c.context)
    w.add_embedding_length(c.width)
    w.add_block_count(c.layers)
    w.add_feed_forward_length(c.ffn)
    w.add_head_count(c.heads)
    w.add_head_count_kv(c.kv_heads)
    w.add_layer_norm_rms_eps(c.eps)
    w.add_rope_dimension_count(c.head_dim)
    w.add_rope_freq_base(c.rope_base)
    w.add_vocab_size(c.vocab)
    w.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    special = {i for i, t in tokenizer.get_added_tokens_decoder().items()}
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("qwen2")
    w.add_token_list([t for t, _ in vocab])
    w.add_token_types([gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL for _, i in vocab])
    w.add_token_merges(merges_of(tokenizer))
    w.add_bos_token_id(0)
    w.add_eos_token_id(1)
    w.add_add_bos_token(True)
    half = lambda p: p.detach().cpu().numpy().astype(np.float16)
    full = lambda p: p.detach().cpu().numpy().astype(np.float32)
    w.add_tensor("token_embd.weight", half(model.embed))
    w.add_tensor("output_norm.weight", full(model.norm))
    for i, layer in enumerate(model.blocks):
        for key in NORMS:
            w.add_tensor(f"blk.{i}.{key}.weight", full(getattr(layer, key)))
        for key in MATRICES:
            x = half(getattr(layer, key))
            if key in ("attn_q", "attn_k"):
                x = _pairs(x, c.heads if key == "attn_q" else c.kv_heads, True)
            w.add_tensor(f"blk.{i}.{key}.weight", np.ascontiguousarray(x))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def merges_of(tokenizer):
    import json
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [m if isinstance(m, str) else " ".join(m) for m in merges]


def load(path):
    """The model of a GGUF file that save() could have written."""
    reader = gguf.GGUFReader(path)
    get = lambda key: reader.fields[key].contents()
    c = Config(vocab=len(get("tokenizer.ggml.tokens")), layers=get("llama.block_count"),
               width=get("llama.embedding_length"), heads=get("llama.attention.head_count"),
               kv_heads=get("llama.attention.head_count_kv"), head_dim=get("llama.rope.dimension_count"),
               ffn=get("llama.feed_forward_length"), rope_base=get("llama.rope.freq_base"),
               eps=get("llama.attention.layer_norm_rms_epsilon"), context=get("llama.context_length"))
    data = {t.name: np.array(t.data, dtype=np.float32) for t in reader.tensors}
    model = Model(c)
    with torch.no_grad():
        model.embed.copy_(torch.from_numpy(data["token_embd.weight"]))
        model.norm.copy_(torch.from_numpy(data["output_norm.weight"]))
        for i, layer in enumerate(model.blocks):
            for key in NORMS + MATRICES:
                x = data[f"blk.{i}.{key}.weight"]
                if key in ("attn_q", "attn_k"):
                    x = _pairs(x, c.heads if key == "attn_q" else c.kv_heads, False)
                getattr(layer, key).copy_(torch.from_numpy(np.ascontiguousarray(x)))
    return model
