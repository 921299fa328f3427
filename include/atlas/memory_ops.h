/*
 * Test-time memory as nodes of a ggml graph. C11; the conventions of atlas/atlas.h hold.
 *
 * 1. Each builder adds one node made with ggml_custom_4d, which the CPU backend runs, and hands out its tensor, which is the ggml context's. When shapes or
 *    types do not fit (ATLAS_INVALID_ARGUMENT), or the ggml context has no room for a node (ATLAS_OUT_OF_MEMORY), nothing has been added.
 * 2. Tensors are f32 and contiguous. ggml's order of sizes: [d, n] means n rows of d elements.
 * 3. A memory must outlive every graph that names it. Threads: one graph or call at a time may work with it; different memories are independent.
 * 4. Order inside a graph is ggml's: a node runs after its sources. To read what an update learned, build the read from a later graph, or make it
 *    depend on the update's result.
 * 5. A node that fails while its graph runs (out of memory) leaves zeros, and says so in the log.
 */
#ifndef ATLAS_MEMORY_OPS_H
#define ATLAS_MEMORY_OPS_H

#include <atlas/atlas.h>
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

struct ggml_context;
struct ggml_tensor;
struct atlas_memory; /* opaque */

enum atlas_memory_kind ATLAS_INT { ATLAS_MEMORY_LINEAR = 0, ATLAS_MEMORY_DEEP = 1, ATLAS_MEMORY_GATED = 2 };

enum atlas_muon_kind ATLAS_INT {
    ATLAS_MUON_STANDARD = 0,      /* five steps, singular values end in 0.68 to 1.20 */
    ATLAS_MUON_POLAR_EXPRESS = 1, /* six steps, 0.99 to 1.01 */
    ATLAS_MUON_NONE = 2           /* plain momentum */
};

/* docs/design/memory.md has the equations. Set size, fill with atlas_memory_default_params, then change. */
struct atlas_memory_params {
    size_t size;
    int32_t d_key;   /* elements of a key and of a query */
    int32_t d_value; /* elements of a value */
    enum atlas_feature_type feature_type;
    int32_t degree;   /* 1 to 3: polynomial, exponential */
    int32_t features; /* Fourier, RBF */
    double bandwidth; /* Fourier, RBF; 0: sqrt(d_key), or 1 for normalised inputs */
    bool normalize;   /* inputs are scaled to length 1 */
    enum atlas_memory_kind kind;
    int32_t hidden;   /* 0: four times the features, at most 1024 */
    float residual;   /* factor of the input added to the output; needs as many features as d_value if not 0 */
    int32_t window;   /* c of the Omega rule, >= 1 */
    double decay;     /* gamma, 0 to 1 */
    double momentum;  /* theta, 0 to below 1 */
    double retention; /* alpha per token, 0 to 1 */
    double step;      /* eta */
    enum atlas_muon_kind muon;
    bool muon_per_token;
    int32_t chunk;      /* pairs per update */
    size_t cache_bytes; /* of mapped features; 0: none */
    uint64_t seed;
};

/* Fills everything but d_key and d_value, which come back as 0. */
ATLAS_API enum atlas_status atlas_memory_default_params(struct atlas_memory_params* params);

/* *memory is the caller's. ATLAS_INVALID_ARGUMENT, with the reason, when the parameters cannot work. */
ATLAS_API enum atlas_status atlas_memory_create(const struct atlas_memory_params* params, struct atlas_memory** memory);

/* NULL is accepted. */
ATLAS_API void atlas_memory_free(struct atlas_memory* memory);

/* Forgets everything learned. */
ATLAS_API enum atlas_status atlas_memory_reset(struct atlas_memory* memory);

/* Bytes that atlas_memory_save writes now. Pairs that wait for a full chunk are learned first. */
ATLAS_API enum atlas_status atlas_memory_state_size(struct atlas_memory* memory, size_t* bytes);

/* Writes the state into data[size], and into *written, which may be NULL, how many bytes that were. ATLAS_INVALID_ARGUMENT when size is too small. */
ATLAS_API enum atlas_status atlas_memory_save(struct atlas_memory* memory, void* data, size_t size, size_t* written);

/* Replaces the state by one saved from a memory of the same parameters. Anything else is refused, and the state stays. */
ATLAS_API enum atlas_status atlas_memory_restore(struct atlas_memory* memory, const void* data, size_t size);

/* Since the memory was made or restored. */
struct atlas_memory_stats {
    size_t size;
    uint64_t pairs;           /* learned */
    uint64_t skipped_pairs;   /* not finite */
    uint64_t skipped_updates; /* undone, since the result would not have been finite */
    uint64_t muon_steps;      /* matrices orthogonalised */
    double loss;              /* mean squared error of the last chunk before learning from it */
    double window_fill;       /* 0 to 1 */
    double cache_hit_ratio;   /* 0 to 1 */
    size_t bytes;             /* that the memory takes */
};
ATLAS_API enum atlas_status atlas_memory_get_stats(const struct atlas_memory* memory, struct atlas_memory_stats* stats);

/* Number of features of a mapped input. */
ATLAS_API enum atlas_status atlas_memory_feature_count(const struct atlas_memory* memory, int32_t* count);

/* *node [d_value, n] = M(phi(queries [d_key, n])). Runs on all threads of the graph. */
ATLAS_API enum atlas_status atlas_memory_forward(struct ggml_context* ctx, struct atlas_memory* memory,
                                                 struct ggml_tensor* queries, struct ggml_tensor** node);

/* Learns from keys [d_key, n] and values [d_value, n] when the node runs. *node [1]: the loss of the last full chunk before it was learned. */
ATLAS_API enum atlas_status atlas_memory_update(struct ggml_context* ctx, struct atlas_memory* memory,
                                                struct ggml_tensor* keys, struct ggml_tensor* values,
                                                struct ggml_tensor** node);

/* *node [1]: sum over the last `window` of n pairs of decay^(n-1-i) * |M(phi(k_i)) - v_i|^2: the Omega objective of the last token. Learns nothing. */
ATLAS_API enum atlas_status atlas_omega_loss(struct ggml_context* ctx, struct atlas_memory* memory,
                                             struct ggml_tensor* keys, struct ggml_tensor* values,
                                             struct ggml_tensor** node);

/* *node, of s's shape: the Newton-Schulz direction of a matrix s [columns, rows], scaled by sqrt(max(1, rows/columns)). */
ATLAS_API enum atlas_status atlas_muon_step(struct ggml_context* ctx, struct ggml_tensor* s, enum atlas_muon_kind kind,
                                            struct ggml_tensor** node);

/* *node [features, n] = phi(x [d_key, n]). Runs on all threads of the graph. */
ATLAS_API enum atlas_status atlas_feature_map(struct ggml_context* ctx, struct atlas_memory* memory,
                                              struct ggml_tensor* x, struct ggml_tensor** node);

#ifdef __cplusplus
}
#endif

#endif
