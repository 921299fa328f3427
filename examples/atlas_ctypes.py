#!/usr/bin/env python3
"""Atlas from Python by ctypes alone: loads it into this process, reads a text with llama.cpp, and prints what Atlas's runtime measured.

    atlas_ctypes.py LIBGGML-ATLAS.SO MODEL TEXT [TOKENS]

llama.cpp's structs of parameters grow from release to release. Here they are taken as blocks of bytes, which is enough as long as only fields at their beginning
are set: they are returned through a pointer, and are the last argument where they are passed.
"""

import ctypes
import ctypes.util
import sys

BATCH = 512


class Block(ctypes.Structure):
    """A struct of llama.cpp, of at most so many bytes."""
    _fields_ = [("words", ctypes.c_uint32 * 128)]


class RuntimeParams(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("enable_atlas", ctypes.c_bool), ("auto_detect_arch", ctypes.c_bool), ("enable_lazy_loading", ctypes.c_bool),
                ("auto_unload", ctypes.c_bool), ("arch_override", ctypes.c_char_p), ("sparsity_threshold", ctypes.c_float),
                ("optimization_level", ctypes.c_float), ("max_modules", ctypes.c_uint32), ("memory_pool_size", ctypes.c_size_t)]


class RuntimeStats(ctypes.Structure):
    _fields_ = [("total_memory_used", ctypes.c_size_t), ("modules_loaded", ctypes.c_uint32), ("average_speedup", ctypes.c_float),
                ("operations_processed", ctypes.c_uint64), ("operations_by_host", ctypes.c_uint64), ("speedup_samples", ctypes.c_uint64),
                ("more", ctypes.c_uint64 * 64)]


def load(name):
    """A library of the system by its name, for everybody in the process."""
    return ctypes.CDLL(ctypes.util.find_library(name) or f"lib{name}.so", mode=ctypes.RTLD_GLOBAL)


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    path, model_path, text = sys.argv[1], sys.argv[2].encode(), sys.argv[3].encode()
    n_write = int(sys.argv[4]) if len(sys.argv) > 4 else 32
    ggml, llama, atlas = load("ggml"), load("llama"), ctypes.CDLL(path)
    for function in (llama.llama_model_load_from_file, llama.llama_init_from_model, llama.llama_model_get_vocab, ggml.ggml_backend_load):
        function.restype = ctypes.c_void_p
    llama.llama_model_default_params.restype = llama.llama_context_default_params.restype = llama.llama_batch_get_one.restype = Block
    llama.llama_get_logits_ith.restype = ctypes.POINTER(ctypes.c_float)
    llama.llama_get_logits_ith.argtypes = [ctypes.c_void_p, ctypes.c_int32]
    atlas.atlas_runtime_default_params.restype = RuntimeParams
    atlas.atlas_runtime_get_last_error.restype = atlas.atlas_runtime_arch_name.restype = ctypes.c_char_p

    def check(result):
        if result != 0:
            sys.exit(atlas.atlas_runtime_get_last_error(None).decode())

    quiet = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda level, line, data: None)
    llama.llama_log_set(quiet, None)
    ggml.ggml_backend_load_all()
    if not ggml.ggml_backend_load(path.encode()):
        sys.exit(f"{path} does not load; its own line above says why")
    model = ctypes.c_void_p(llama.llama_model_load_from_file(model_path, llama.llama_model_default_params()))
    if not model:
        sys.exit(f"{model_path.decode()} cannot be loaded")
    print("architecture:", atlas.atlas_runtime_arch_name(atlas.atlas_runtime_detect_architecture(model)).decode())
    params = llama.llama_context_default_params()
    params.words[0], params.words[1], params.words[2] = 2048, BATCH, BATCH  # n_ctx, n_batch, n_ubatch
    context = ctypes.c_void_p(llama.llama_init_from_model(model, params))
    if not context:
        sys.exit("no context")

    runtime = ctypes.c_void_p()
    settings = atlas.atlas_runtime_default_params()
    settings.memory_pool_size = 512 << 20
    check(atlas.atlas_runtime_init(ctypes.byref(runtime), model, ctypes.byref(settings)))
    check(atlas.atlas_runtime_enable_for_context(runtime, context))

    vocab = ctypes.c_void_p(llama.llama_model_get_vocab(model))
    tokens = (ctypes.c_int32 * (len(text) + 16))()
    count = llama.llama_tokenize(vocab, text, len(text), tokens, len(tokens), True, True)

    def decode(first, number):
        # llama_batch is passed by value: its first words are the number of tokens and their address.
        batch = llama.llama_batch_get_one(ctypes.byref(tokens, first * 4), number)
        if llama.llama_decode(context, batch) != 0:
            sys.exit("llama_decode failed")

    for done in range(0, count, BATCH):
        decode(done, min(BATCH, count - done))
    written = bytearray()
    for _ in range(n_write):
        logits = llama.llama_get_logits_ith(context, -1)
        n_vocab = llama.llama_vocab_n_tokens(vocab)
        tokens[0] = max(range(n_vocab), key=logits.__getitem__)
        piece = ctypes.create_string_buffer(128)
        written += piece.raw[:max(0, llama.llama_token_to_piece(vocab, tokens[0], piece, len(piece), 0, True))]
        decode(0, 1)
    print(written.decode(errors="replace"))

    stats = RuntimeStats()
    check(atlas.atlas_runtime_get_stats(runtime, ctypes.byref(stats)))
    print(f"{stats.modules_loaded} modules, {stats.operations_processed} operations by Atlas, {stats.operations_by_host} by the host, "
          f"speedup {stats.average_speedup:.2f} over {stats.speedup_samples} samples, {stats.total_memory_used / 1e6:.1f} MB")
    llama.llama_free(context)
    atlas.atlas_runtime_cleanup(runtime)
    llama.llama_model_free(model)


if __name__ == "__main__":
    main()
