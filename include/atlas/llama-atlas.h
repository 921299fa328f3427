/*
 * Atlas beside llama.cpp's C API: switches and statistics per llama_context. C11.
 *
 * 1. The functions live in libggml-atlas.so. Link it (pkg-config ggml-atlas, or CMake's ggml-atlas::ggml-atlas), or ask the loaded backend:
 *    ggml_backend_reg_get_proc_address(ggml_backend_reg_by_name("ATLAS"), "llama_set_atlas_enabled"). Linking does not load the backend: set
 *    GGML_BACKEND_PATH, or call ggml_backend_load(llama_atlas_library_path()) before the model is loaded.
 * 2. A context runs on Atlas when its model was loaded after the backend. Functions that take a context find its Atlas side by calling
 *    llama_synchronize(ctx), which they look up in the process: Atlas does not link libllama.
 * 3. Threads: call from the thread that decodes with the context, between two llama_decode calls. A change counts from the next llama_decode on.
 *    Different contexts may be used by different threads at the same time.
 * 4. Failure: a status below 0 comes back, nothing was changed, and llama_atlas_last_error() names the function, the value and what is allowed.
 *    No function ends the process or lets an exception out. NULL is an error, not a crash.
 * 5. Nothing is owned by the caller. Strings stay valid as said at each function.
 */
#ifndef LLAMA_ATLAS_H
#define LLAMA_ATLAS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef LLAMA_ATLAS_API
#define LLAMA_ATLAS_API __attribute__((visibility("default")))
#endif

/* Every int is a value of such an enum in C++ too, so that one that means nothing can be looked at and refused. */
#ifdef __cplusplus
#define LLAMA_ATLAS_INT : int
extern "C" {
#else
#define LLAMA_ATLAS_INT
#endif

struct llama_context;
struct llama_model;

enum llama_atlas_status LLAMA_ATLAS_INT {
    LLAMA_ATLAS_OK = 0,
    LLAMA_ATLAS_INVALID_ARGUMENT = -1, /* NULL, NaN, out of range */
    LLAMA_ATLAS_NOT_ACTIVE = -2,       /* this context does not run on Atlas */
    LLAMA_ATLAS_NO_LLAMA = -3,         /* llama_synchronize was not found in this process, or in several libraries */
    LLAMA_ATLAS_UNSUPPORTED = -4,      /* this context or its settings cannot do that */
    LLAMA_ATLAS_OUT_OF_MEMORY = -5,
    LLAMA_ATLAS_INTERNAL = -6
};

/* Features of a query that a memory learns from; docs/design/memory.md has the equations. */
enum llama_atlas_feature_type LLAMA_ATLAS_INT {
    LLAMA_ATLAS_FEATURE_IDENTITY = 0,
    LLAMA_ATLAS_FEATURE_POLYNOMIAL = 1,
    LLAMA_ATLAS_FEATURE_EXPONENTIAL = 2,
    LLAMA_ATLAS_FEATURE_FOURIER = 3,
    LLAMA_ATLAS_FEATURE_RBF = 4
};

/*
 * Of one context, since it was made where nothing else is said. Means over memories: there is one per layer, KV head and sequence that has
 * keys which are estimated. Fields are only ever added at the end.
 */
struct llama_atlas_stats {
    /* In: sizeof(struct llama_atlas_stats) of the caller. Out: bytes that were filled, this field included. */
    size_t size;

    /* MiB of index and memories, beyond the KV cache itself. */
    double memory_usage_mb;
    /* 0 to 1, mean: how full the Omega rule's window is. Of least squares, which looks back at everything: the share that has learned. */
    double window_fill_ratio;
    /* Recent held-out squared error of estimate plus memory, mean. Compare with optimization_loss_without. */
    double optimization_loss;
    /* Newton-Schulz iterations. 0 for least squares, which needs none. */
    uint64_t muon_iterations_completed;
    /* 0 to 1: mapped features found in the cache; 0 where there is no cache. */
    double cache_hit_ratio;

    /* As llama_set_atlas_enabled left it, or as the context began. */
    bool enabled;
    /* Whether memories work while enabled. */
    bool memory_enabled;
    enum llama_atlas_feature_type feature_type;
    /* Ceiling of the gates, and the gates as they are, mean. 0 to 1. */
    double blend_ratio;
    double blend_ratio_in_use;
    /* Recent held-out squared error of the estimate alone, mean. */
    double optimization_loss_without;
    /* MiB; memory_usage_mb is their sum. */
    double index_mb;
    double memories_mb;
    uint64_t memories;
    /* Probed queries whose exact answer is known; how many of them were learned; what was left out or undone because it was not finite. */
    uint64_t observations;
    uint64_t learned;
    uint64_t skipped;
    /* Attention operations, layers times batches; 0: nothing was decoded, or not by Atlas. Those of them in which something was estimated; in the
       others every visible key was read. */
    uint64_t attention_calls;
    uint64_t estimated_calls;
    /* Of the estimated calls, mean per tile of queries and KV head: keys that are visible, and keys that were read. */
    double visible_keys;
    double exact_keys;
    /* 0 to 1, mean, as estimated: share of the softmax mass that was read. 1 where nothing was estimated. */
    double retained_mass;
};

/*
 * Whether the side-car in use (ATLAS_SIDE_CAR, learned memories made by `atlas convert`) was accepted and is this model's, as far as architecture, name and
 * number of parameters tell. Without a side-car Atlas works on any model, so false does not mean that contexts of the model do not run on Atlas:
 * llama_get_atlas_stats tells. false also for NULL, when libllama is not found (llama_atlas_last_error says so), and for models in several files.
 * Thread-safe while the model lives; reads the model's file, some milliseconds.
 */
LLAMA_ATLAS_API bool llama_model_has_atlas(const struct llama_model* model);

/*
 * false: exact attention over every visible key, and memories rest (what they learned is kept). true: what ATLAS_MODE and ATLAS_MEMORY say; where
 * ATLAS_MODE is exact or unset, sparse attention with memory. A context starts enabled only if ATLAS_MODE asks for it. Keys written while enabled stay
 * as they are in the KV cache. true is LLAMA_ATLAS_UNSUPPORTED with ATLAS_DEVICE=accel, where only exact attention exists.
 */
LLAMA_ATLAS_API enum llama_atlas_status llama_set_atlas_enabled(struct llama_context* ctx, bool enabled);

/* Ceiling of the gates: the largest share of a memory's correction that is used, 0 to 1. What was learned is kept. May be set while not enabled. */
LLAMA_ATLAS_API enum llama_atlas_status llama_set_atlas_blend_ratio(struct llama_context* ctx, float ratio);

/* Another type than the present one makes all memories of the context start anew. May be set while not enabled. A side-car, which is taken up in the
 * context's second llama_decode, brings its own type: set another one after that. LLAMA_ATLAS_INVALID_ARGUMENT also when the context's heads
 * would have more features than the memory can hold. */
LLAMA_ATLAS_API enum llama_atlas_status llama_set_atlas_feature_type(struct llama_context* ctx,
                                                                     enum llama_atlas_feature_type type);

/* Empties the memories of the context, as for an unrelated text. Memories follow llama_memory_clear and llama_memory_seq_rm by themselves where they can
 * tell; this says it. */
LLAMA_ATLAS_API enum llama_atlas_status llama_reset_atlas_memory(struct llama_context* ctx);

/* Fills the first stats->size bytes. Set stats->size = sizeof *stats before; what an older library does not know is left as it was, and
 * stats->size comes back smaller. */
LLAMA_ATLAS_API enum llama_atlas_status llama_get_atlas_stats(struct llama_context* ctx,
                                                              struct llama_atlas_stats* stats);

/* Text of the last failure on this thread, "" if there was none; never NULL. Valid until the next failure on this thread. */
LLAMA_ATLAS_API const char* llama_atlas_last_error(void);

/* File that holds these functions, for ggml_backend_load. "" if the system does not tell. Valid until the process ends. Thread-safe. */
LLAMA_ATLAS_API const char* llama_atlas_library_path(void);

#ifdef __cplusplus
}
#endif

#endif
