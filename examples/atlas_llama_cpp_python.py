#!/usr/bin/env python3
"""Atlas in a program that uses llama-cpp-python: loaded into this process before the model, it owns the KV cache and runs the model's graph.

    atlas_llama_cpp_python.py LIBGGML-ATLAS.SO MODEL TEXT [TOKENS]

llama-cpp-python has to have llama.cpp as shared libraries, as it does unless it was built otherwise; pip install ggml-atlas brings the plug-in
(ggml_atlas.library()). The C API's functions are then had by ctypes, with llama-cpp-python's own handles.
"""

import ctypes
import sys

import llama_cpp
from llama_cpp._ggml import libggml
from atlas_ctypes import RuntimeParams, RuntimeStats


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    path, model, text = sys.argv[1:4]
    n_write = int(sys.argv[4]) if len(sys.argv) > 4 else 32

    # Before a model is loaded: devices are counted then. GGML_BACKEND_PATH does not help here, since nobody asks for all backends.
    libggml.ggml_backend_load.restype = ctypes.c_void_p
    if not libggml.ggml_backend_load(path.encode()):
        sys.exit(f"{path} does not load; its own line above says why")
    # n_gpu_layers: layers, and their KV, for the device ATLAS0, which is this CPU.
    llama = llama_cpp.Llama(model_path=model, n_ctx=2048, n_gpu_layers=-1, seed=1, verbose=False)

    atlas = ctypes.CDLL(path)
    atlas.atlas_runtime_default_params.restype = RuntimeParams
    atlas.atlas_runtime_get_last_error.restype = ctypes.c_char_p

    def check(result):
        if result != 0:
            sys.exit(atlas.atlas_runtime_get_last_error(None).decode())

    runtime = ctypes.c_void_p()
    params = atlas.atlas_runtime_default_params()
    params.memory_pool_size = 512 << 20
    check(atlas.atlas_runtime_init(ctypes.byref(runtime), ctypes.c_void_p(llama.model), ctypes.byref(params)))
    check(atlas.atlas_runtime_enable_for_context(runtime, ctypes.c_void_p(llama.ctx)))

    answer = llama.create_completion(text, max_tokens=n_write, temperature=0.0)
    print(answer["choices"][0]["text"])

    stats = RuntimeStats()
    check(atlas.atlas_runtime_get_stats(runtime, ctypes.byref(stats)))
    print(f"llama-cpp-python {llama_cpp.__version__}: {stats.modules_loaded} modules, {stats.operations_processed} operations by Atlas, "
          f"{stats.operations_by_host} by the host, speedup {stats.average_speedup:.2f} over {stats.speedup_samples} samples")
    llama.close()
    atlas.atlas_runtime_cleanup(runtime)


if __name__ == "__main__":
    main()
