/*
 * Atlas's runtime: what a program says once per model (how much memory, how bold), which modules run, what they cost and gain, by measurement. C11, and
 * C++ from 11 on. docs/api.md has an example.
 *
 * 1. Linking does not load the backend: set GGML_BACKEND_PATH, or call ggml_backend_load(atlas_library_path()) before the model is loaded. libllama's
 *    functions are looked up in the process, as for atlas/llama-atlas.h.
 * 2. Failure: what can fail returns an atlas_runtime_result. Below 0 nothing was changed, out-arguments are as they were, and
 *    atlas_runtime_get_last_error() names the function, the value and what is allowed. NULL where something is needed is a failure, not a crash.
 *    No function ends the process, lets a C++ exception out, or prints.
 * 3. Structs. atlas_runtime_params begins with `size`, which atlas_runtime_default_params() sets. The other structs are filled by the library and
 *    need no preparation; so that they can grow, functions that pass a struct are versioned symbols (ATLAS_RUNTIME_1): a program keeps those that it was
 *    linked with. Who asks for them by name gets those of this version.
 * 4. Ownership: the caller's is the atlas_runtime_ctx, until atlas_runtime_cleanup(). Texts that are handed out are the library's, and valid for ever
 *    where nothing else is said. Texts that are given are copied.
 * 5. Threads: all functions may be called at any time from any thread, with two exceptions. enable_for_context and disable_for_context are called from
 *    the thread that decodes with that context, between two llama_decode calls, while other contexts compute. And whoever calls cleanup sees to it that
 *    nobody else uses the runtime any more. What load_module, unload_module and resize_pool change counts from each context's next llama_decode on.
 * 6. Sizes are bytes, ratios are 1 for equal, where nothing else is said.
 */
#ifndef ATLAS_RUNTIME_H
#define ATLAS_RUNTIME_H

#include <atlas/atlas.h>
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

struct llama_context;
struct llama_model;

/* One model's runtime; opaque. */
typedef struct atlas_runtime_ctx atlas_runtime_ctx;

typedef enum atlas_runtime_result ATLAS_INT {
    ATLAS_RUNTIME_SUCCESS = 0,
    ATLAS_RUNTIME_ERROR_INVALID_PARAMS =
        -1, /* NULL, NaN, out of range, a name that is none; what does not go together */
    ATLAS_RUNTIME_ERROR_MEMORY_ALLOCATION = -2, /* the system has no memory left */
    ATLAS_RUNTIME_ERROR_ARCH_UNSUPPORTED = -3,  /* an architecture that nobody knows was asked for */
    ATLAS_RUNTIME_ERROR_INIT_FAILED =
        -4, /* libllama was not found; the context does not run on Atlas; a file cannot be read; a bug */
    ATLAS_RUNTIME_ERROR_MODULE_NOT_FOUND =
        -5, /* there is no such module, not in this release, or not in this process */
    ATLAS_RUNTIME_ERROR_POOL_EXHAUSTED =
        -6, /* the pool is smaller than what is in use and cannot be given back; max_modules are loaded */
    ATLAS_RUNTIME_ERROR_INCOMPATIBLE_MODEL =
        -7 /* the model has no attention, or is not of the architecture that it was said to be */
} atlas_runtime_result;

/* Families of architectures. Which of llama.cpp's names belong to each: docs/architectures.md. */
typedef enum atlas_arch_type ATLAS_INT {
    ATLAS_ARCH_AUTO = 0,
    ATLAS_ARCH_LLAMA = 1,
    ATLAS_ARCH_MISTRAL = 2,
    ATLAS_ARCH_PHI = 3,
    ATLAS_ARCH_GEMMA = 4,
    ATLAS_ARCH_MIXTRAL = 5,
    ATLAS_ARCH_QWEN = 6,
    ATLAS_ARCH_OPT = 7,
    ATLAS_ARCH_FALCON = 8,
    ATLAS_ARCH_MPT = 9,
    ATLAS_ARCH_BLOOM = 10,
    ATLAS_ARCH_GPT_NEOX = 11,
    ATLAS_ARCH_GPT_OSS = 12,
    ATLAS_ARCH_DEEPSEEK = 13,
    ATLAS_ARCH_COMMAND_R = 14,
    ATLAS_ARCH_STARCODER = 15,
    ATLAS_ARCH_GLM = 16,
    ATLAS_ARCH_GRANITE = 17,
    ATLAS_ARCH_OLMO = 18,
    ATLAS_ARCH_STABLELM = 19,
    ATLAS_ARCH_UNKNOWN = 20 /* works, with general defaults */
} atlas_arch_type;

/* What a runtime is to be. Set by atlas_runtime_default_params(), then changed where wanted. */
typedef struct atlas_runtime_params {
    size_t size; /* as atlas_runtime_default_params() left it */
    /* false: no module is loaded at first, and the host's own operations run. Default true. */
    bool enable_atlas;
    /* true, the default: the architecture is read from the model. false: it is arch_override, which is then needed. */
    bool auto_detect_arch;
    /* true, the default: the file of learned memories is read when a context first needs it. false: at init, which fails where it cannot be read. */
    bool enable_lazy_loading;
    /* A module that stands for an operation of the host's, and is measured to be slower than that, is unloaded, unless it was loaded by name. Default
     * false. */
    bool auto_unload;
    /* Name of a family ("llama") or of an architecture of llama.cpp ("qwen3moe"), any case; NULL, the default: none. With auto_detect_arch it says what
     * to take where the model does not tell. */
    const char* arch_override;
    /* 0 to 1: share of the inputs of each layer's last product that activation-sparsity leaves out for single tokens, from level 2 on if it is 0.5 or more, or
     * once the module is loaded by name. Default 0.1. */
    float sparsity_threshold;
    /*
     * 0 to 2, default 1. The largest preset that it reaches counts:
     *   0    exact attention, by Atlas's kernels; weights are the host's
     *   1    and Atlas's products with weights; sparse attention where a context is longer than ATLAS_THRESHOLD
     *   2    and memories that learn what sparse attention leaves out; half the budget of keys, from half that length on; activation sparsity
     * What the environment sets (ATLAS_BUDGET and the like) stays.
     */
    float optimization_level;
    /* Modules that may be loaded at the same time, at least 1. Default 16. */
    uint32_t max_modules;
    /*
     * Default 256 MB, 0: no limit, else at least 1 MB. What the KV caches of the process, their indexes and memories may take. What does not fit
     * goes to ATLAS_KV_DISK; without one llama_decode fails, as it does with ATLAS_KV_RAM, which counts as well if it is smaller. The
     * pools of several runtimes in one process add up: caches do not belong to one of them.
     */
    size_t memory_pool_size;
} atlas_runtime_params;

/* What is known of a family, or of a model: 0 where nothing is. */
typedef struct atlas_arch_config {
    atlas_arch_type arch;
    const char* name; /* "llama" */
    int32_t layers;   /* of a model; 0 of a family, as all counts */
    int32_t heads;    /* query heads per layer, the most where layers differ */
    int32_t kv_heads;
    int32_t head_dim;       /* of keys */
    int32_t context_length; /* trained, tokens */
    int32_t experts;
    int32_t experts_used;   /* per token */
    int32_t sliding_window; /* tokens; 0: no layer has one */
    int32_t
        global_every; /* one of so many layers sees everything, the others the sliding window; 0: all do, or it is not known */
    float softcap;        /* of attention's logits; 0: none */
    bool alibi;           /* logits are biased by distance: memories do not learn */
    bool attention_sinks; /* learned, per head */
    bool recurrent;       /* some layers have a state instead of attention */
    int32_t window;       /* of sparse attention, tokens; what its options are set to where nothing else is said */
    int32_t sinks;
    int32_t budget;    /* keys */
    int32_t threshold; /* visible keys up to which attention stays exact */
} atlas_arch_config;

/* A module as it is now. */
typedef struct atlas_module_info {
    const char* name;        /* "sparse-attention" */
    const char* description; /* one line */
    atlas_arch_type arch;    /* that it runs for */
    size_t memory_usage;     /* of the runtime's contexts; of hybrid-weights and streaming, of the process */
    bool is_active;          /* loaded */
    bool is_available;       /* can be loaded in this process */
    const char* reason;      /* why it is not available, or was unloaded by itself; "" otherwise */
    uint64_t calls;          /* operations that it computed since init or reset_stats */
    /* Of a module that stands for an operation of the host's: time of that on the same tensors, divided by the module's, over `samples` calls; 1 while
     * there are none. Of memories: time of attention without them, divided by that with them. Of others 1. */
    float performance_gain;
    uint64_t samples;
} atlas_module_info;

/* Of all contexts that the runtime was enabled for, since init or reset_stats where nothing else is said. */
typedef struct atlas_runtime_stats {
    size_t total_memory_used; /* now: pool_used, and scratch_memory */
    uint32_t modules_loaded;  /* now */
    /* Time that the host would take for the operations that Atlas computed, divided by Atlas's: measured on a small sample of calls, on the same tensors,
     * at a cost of 0.5 % of the time at most. Of weights, the host's operation is the one without the repacking that it does while it loads them itself.
     * 1 while speedup_samples is 0. */
    float average_speedup;
    uint64_t operations_processed; /* nodes of graphs that Atlas computed itself */
    uint64_t operations_by_host;   /* nodes that it had the host compute */
    uint64_t speedup_samples;
    float sampling_share; /* of the time of the graphs, for these samples */
    uint32_t contexts;    /* now */
    uint64_t graphs;
    double compute_seconds; /* of these graphs */
    size_t pool_used;       /* now, of the process: KV pages, indexes, memories */
    size_t pool_capacity;   /* now; 0: no limit */
    size_t kv_memory;       /* now, of the process: pool_used without the next two */
    size_t index_memory;    /* now */
    size_t memories_memory; /* now */
    size_t scratch_memory;  /* now: work space that no limit counts */
    size_t kv_on_disk;      /* now, of the process */
    uint64_t kv_disk_read;  /* bytes, since the library was loaded; the next one too */
    uint64_t kv_disk_written;
    uint64_t attention_calls;   /* by Atlas: layers times batches */
    uint64_t estimated_calls;   /* those of them in which something was estimated */
    uint64_t attention_by_host; /* calls while exact-attention was not loaded */
    double visible_keys;        /* of estimated calls, mean per tile of queries and KV head */
    double exact_keys;          /* of those, read */
    uint64_t products;          /* with weights, by Atlas */
    uint64_t products_by_host;  /* while weights was not loaded */
    uint64_t memories;          /* now: one per layer, KV head and sequence */
    uint64_t sparse_products;     /* of products: with inputs left out */
    uint64_t sparse_bytes;      /* of the weights of these, */
    uint64_t sparse_bytes_read; /* and those of them that were read */
} atlas_runtime_stats;

/* Every call works without Atlas's backend being loaded; it is needed by enable_for_context. */
ATLAS_API atlas_runtime_params atlas_runtime_default_params(void);

/* Whether init would take these: INVALID_PARAMS naming the first field that is wrong, or ARCH_UNSUPPORTED. */
ATLAS_API atlas_runtime_result atlas_runtime_validate_params(const atlas_runtime_params* params);

/*
 * Makes a runtime for a model, with the modules of the level, and its pool. *ctx is the caller's. params NULL: the defaults. The model may be freed before the
 * runtime. INCOMPATIBLE_MODEL: it has no attention, or its own metadata contradict arch_override. POOL_EXHAUSTED: more is in use already. INIT_FAILED: libllama was
 * not found, or, without enable_lazy_loading, the side-car cannot be read.
 */
ATLAS_API atlas_runtime_result atlas_runtime_init(atlas_runtime_ctx** ctx, const struct llama_model* model,
                                                  const atlas_runtime_params* params);

/* Ends a runtime: its contexts are as after disable_for_context from their next llama_decode on, and its pool is taken back. NULL is accepted. */
ATLAS_API void atlas_runtime_cleanup(atlas_runtime_ctx* ctx);

/*
 * The runtime's modules act on this context from its next llama_decode on, and it counts in the statistics; until it is freed, or disabled, or enabled for
 * another runtime. INIT_FAILED where the context does not run on Atlas. ctx's model is not compared with the context's.
 */
ATLAS_API atlas_runtime_result atlas_runtime_enable_for_context(atlas_runtime_ctx* ctx,
                                                                struct llama_context* llama_ctx);

/* From the next llama_decode on the context computes exactly, by the operations that the process began with (ATLAS_WEIGHTS). Keys that were written stay.
 * INVALID_PARAMS where it was not enabled for this runtime. */
ATLAS_API atlas_runtime_result atlas_runtime_disable_for_context(atlas_runtime_ctx* ctx,
                                                                 struct llama_context* llama_ctx);

/* The family of a model by its metadata, by its name where those say "llama" only. UNKNOWN for one that is not known; also, with the reason as last error, where
 * model is NULL or libllama was not found. */
ATLAS_API atlas_arch_type atlas_runtime_detect_architecture(const struct llama_model* model);

/* What is known of a family. INVALID_PARAMS for AUTO and for what is no family. */
ATLAS_API atlas_runtime_result atlas_runtime_get_arch_config(atlas_arch_type arch, atlas_arch_config* config);

/* "llama"; "unknown" for UNKNOWN and what is no family. */
ATLAS_API const char* atlas_runtime_arch_name(atlas_arch_type arch);

/* The other way: by a family's name, or one that llama.cpp gives an architecture of it; any case. UNKNOWN for others and NULL. */
ATLAS_API atlas_arch_type atlas_runtime_arch_from_name(const char* name);

/*
 * Modules: "exact-attention", "sparse-attention", "atlas-memory", "tiered-kv", "weights", "activation-sparsity", "hybrid-weights", "streaming",
 * "cuda". One that is not loaded leaves its work to the host's own operation (exact-attention, weights), or it is not done. Loading what is loaded, and unloading
 * what is not, succeeds. MODULE_NOT_FOUND: no such module, or one that cannot be in this process, and why: tiered-kv, hybrid-weights and streaming work on
 * what the process prepared when a model was loaded, so ATLAS_KV_DISK, ATLAS_WEIGHT_FORMAT, ATLAS_WEIGHTS_RAM or ATLAS_RAM must have been set before the
 * library was; they are then loaded from the beginning, whatever the level. cuda is in no process of this release. INVALID_PARAMS:
 * atlas-memory without sparse-attention, sparse-attention without exact-attention, activation-sparsity without weights. POOL_EXHAUSTED: max_modules are loaded.
 */
ATLAS_API atlas_runtime_result atlas_runtime_load_module(atlas_runtime_ctx* ctx, const char* module_name);

/* What needs the module is unloaded with it. Without exact-attention, the host's operation works on copies of keys and values: correct, and slow. Without tiered-kv
 * nothing more goes to disk; what is there can be read. Without hybrid-weights products read weights as they are in their file, without streaming where they
 * are mapped, so that the system reads what it has not in memory, beyond ATLAS_WEIGHTS_RAM; what both hold stays for other contexts, and for when they are loaded again. */
ATLAS_API atlas_runtime_result atlas_runtime_unload_module(atlas_runtime_ctx* ctx, const char* module_name);

/* Fills up to *count infos with the modules that are loaded, and sets *count to how many are. modules may be NULL if *count is 0. */
ATLAS_API atlas_runtime_result atlas_runtime_get_active_modules(atlas_runtime_ctx* ctx, atlas_module_info* modules,
                                                                size_t* count);

/* The same of all modules, loaded or not. */
ATLAS_API atlas_runtime_result atlas_runtime_get_modules(atlas_runtime_ctx* ctx, atlas_module_info* modules,
                                                         size_t* count);

/* What is known of the runtime's model: as atlas_runtime_get_arch_config, with what the model's own metadata say. */
ATLAS_API atlas_runtime_result atlas_runtime_get_model_config(atlas_runtime_ctx* ctx, atlas_arch_config* config);

/*
 * Makes this runtime's pool new_size bytes, 0: without a limit. Where more is in use, pages of KV go to disk (ATLAS_KV_DISK, module tiered-kv), which may
 * take a while; POOL_EXHAUSTED where that does not suffice: the pool is as before, though some pages may have left memory.
 */
ATLAS_API atlas_runtime_result atlas_runtime_resize_pool(atlas_runtime_ctx* ctx, size_t new_size);

/* Bytes in use of what the process's pools have together, as `pool_used`; 0 where ctx is NULL. */
ATLAS_API size_t atlas_runtime_get_pool_usage(const atlas_runtime_ctx* ctx);

/* What they have together, or ATLAS_KV_RAM if that is less; 0: no limit, or ctx is NULL. */
ATLAS_API size_t atlas_runtime_get_pool_capacity(const atlas_runtime_ctx* ctx);

ATLAS_API atlas_runtime_result atlas_runtime_get_stats(const atlas_runtime_ctx* ctx, atlas_runtime_stats* stats);

/* Counts and measurements begin anew; what is in use now stays. */
ATLAS_API atlas_runtime_result atlas_runtime_reset_stats(atlas_runtime_ctx* ctx);

/* "the pool is exhausted"; "unknown result" for what is none. */
ATLAS_API const char* atlas_runtime_error_string(atlas_runtime_result result);

/* Text of this thread's last failure in a function of this header or of another one of Atlas's, as atlas_last_error(). ctx may be NULL. */
ATLAS_API const char* atlas_runtime_get_last_error(const atlas_runtime_ctx* ctx);

#ifdef __cplusplus
}
#endif

#endif
