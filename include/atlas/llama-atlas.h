/*
 * Atlas beside llama.cpp's C API: switches and statistics per llama_context. C11; the conventions of atlas/atlas.h hold.
 *
 * 1. Linking does not load the backend: set GGML_BACKEND_PATH, or call ggml_backend_load(atlas_library_path()) before the model is loaded.
 * 2. A context runs on Atlas when its model was loaded after the backend. Functions that take a context find its Atlas side by calling
 *    llama_synchronize(ctx), which they look up in the process: Atlas does not link libllama. ATLAS_NOT_ACTIVE: the context does not run on Atlas;
 *    ATLAS_NO_LLAMA: the function was not found.
 * 3. Threads: call from the thread that decodes with the context, between two llama_decode calls. A change counts from the next llama_decode on.
 *    Different contexts may be used by different threads at the same time.
 */
#ifndef LLAMA_ATLAS_H
#define LLAMA_ATLAS_H

#include <atlas/atlas.h>
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

struct llama_context;
struct llama_model;

/*
 * Of one context, since it was made where nothing else is said. Means over memories: there is one per layer, KV head and sequence that has
 * keys which are estimated.
 */
struct llama_atlas_stats {
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
    enum atlas_feature_type feature_type;
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
 * llama_get_atlas_stats tells. false also for models in several files, and on failure (NULL, libllama not found), which is the last error then.
 * Thread-safe while the model lives; reads the model's file, some milliseconds.
 */
ATLAS_API bool llama_model_has_atlas(const struct llama_model* model);

/*
 * false: exact attention over every visible key, and memories rest (what they learned is kept). true: what ATLAS_MODE and ATLAS_MEMORY say; where
 * ATLAS_MODE is exact or unset, sparse attention, with memory unless ATLAS_MEMORY=0. A context starts enabled only if ATLAS_MODE asks for it. Keys written while enabled stay
 * as they are in the KV cache. true is ATLAS_UNSUPPORTED with ATLAS_DEVICE=accel, where only exact attention exists.
 */
ATLAS_API enum atlas_status llama_set_atlas_enabled(struct llama_context* ctx, bool enabled);

/* Ceiling of the gates: the largest share of a memory's correction that is used, 0 to 1. What was learned is kept. May be set while not enabled. */
ATLAS_API enum atlas_status llama_set_atlas_blend_ratio(struct llama_context* ctx, float ratio);

/* Another type than the present one makes all memories of the context start anew. May be set while not enabled. A side-car, which is taken up in the
 * context's second llama_decode, brings its own type: set another one after that. ATLAS_INVALID_ARGUMENT also when the context's heads
 * would have more features than the memory can hold. */
ATLAS_API enum atlas_status llama_set_atlas_feature_type(struct llama_context* ctx, enum atlas_feature_type type);

/*
 * Sets one option of the context by the name of its variable ("ATLAS_BUDGET") to what the variable might hold ("1024"); "" takes back what was set here, so
 * that what the process began with counts again. docs/options.md has names and values, and which options a context can have of its own: the others
 * count only when the library is loaded, and are ATLAS_UNSUPPORTED with the reason. A name or value that is none, or that contradicts another option,
 * is ATLAS_INVALID_ARGUMENT with what is allowed. ATLAS_MODE switches the context on, or, if it is exact, off. Options of memories that change what a
 * memory is, like its kind, make all of them start anew; a side-car brings its own, as for llama_set_atlas_feature_type.
 */
ATLAS_API enum atlas_status llama_set_atlas_option(struct llama_context* ctx, const char* name, const char* value);

/* Empties the memories of the context, as for an unrelated text. Memories follow llama_memory_clear and llama_memory_seq_rm by themselves where they can
 * tell; this says it. */
ATLAS_API enum atlas_status llama_reset_atlas_memory(struct llama_context* ctx);

/* Fills *stats, as far as its size goes. */
ATLAS_API enum atlas_status llama_get_atlas_stats(struct llama_context* ctx, struct llama_atlas_stats* stats);

#ifdef __cplusplus
}
#endif

#endif
