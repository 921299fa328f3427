#include <atlas/memory_ops.h>
#include <ggml.h>

#include <algorithm>
#include <cstring>
#include <cstddef>
#include <exception>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "base/c_function.h"
#include "base/log.h"
#include "base/per_thread.h"
#include "memory/test_time_memory.h"
#include "kernels/elementwise.h"

struct atlas_memory {
    explicit atlas_memory(const atlas::memory::MemoryConfig& config) : memory(config) {}
    atlas::memory::TestTimeMemory memory;
};

namespace {

using namespace atlas::memory;
using namespace atlas::c_function;
using atlas::Status;

constexpr size_t kSmallestParams = offsetof(atlas_memory_params, seed) + sizeof(uint64_t);
constexpr size_t kSmallestStats = offsetof(atlas_memory_stats, bytes) + sizeof(size_t);

NewtonSchulz muon_of(atlas_muon_kind kind) {
    switch (kind) {
        case ATLAS_MUON_STANDARD:
            return NewtonSchulz::kStandard;
        case ATLAS_MUON_POLAR_EXPRESS:
            return NewtonSchulz::kPolarExpress;
        case ATLAS_MUON_NONE:
            break;
    }
    return NewtonSchulz::kNone;
}

/** Negative sizes become 0, which the checks refuse by name. */
size_t size_of(int32_t value) { return value > 0 ? static_cast<size_t>(value) : 0; }

MemoryConfig config_of(const atlas_memory_params& params) {
    MemoryConfig config;
    config.features.type = static_cast<FeatureType>(params.feature_type);
    config.features.d = size_of(params.d_key);
    config.features.degree = params.degree;
    config.features.features = size_of(params.features);
    config.features.bandwidth = params.bandwidth;
    config.features.normalize = params.normalize;
    config.features.seed = params.seed;
    config.kind = static_cast<MemoryKind>(params.kind);
    config.d_out = size_of(params.d_value);
    config.hidden = size_of(params.hidden);
    config.residual = params.residual;
    config.omega.window = params.window;
    config.omega.decay = params.decay;
    config.omega.momentum = params.momentum;
    config.omega.retention = params.retention;
    config.omega.step = params.step;
    config.omega.orthogonalize = muon_of(params.muon);
    config.omega.per_token = params.muon_per_token;
    config.chunk = size_of(params.chunk);
    config.cache_bytes = params.cache_bytes;
    config.seed = params.seed;
    return config;
}

Status check_enum(const char* name, int value, int last) {
    if (value >= 0 && value <= last) return Status::ok();
    return Status::invalid_argument(std::string(name) + " " + std::to_string(value) + ": allowed is 0 to " +
                                    std::to_string(last));
}

Status check_kinds(const atlas_memory_params& params) {
    Status status = check_enum("params->feature_type", params.feature_type, ATLAS_FEATURE_RBF);
    if (status.is_ok()) status = check_enum("params->kind", params.kind, ATLAS_MEMORY_GATED);
    if (status.is_ok()) status = check_enum("params->muon", params.muon, ATLAS_MUON_NONE);
    return status;
}

Status check_rows(const char* name, const ggml_tensor* tensor, size_t width) {
    if (!tensor) return Status::invalid_argument(std::string(name) + " is NULL");
    if (tensor->type == GGML_TYPE_F32 && ggml_is_contiguous(tensor) && tensor->ne[0] == static_cast<int64_t>(width))
        return Status::ok();
    return Status::invalid_argument(std::string(name) + ": contiguous f32 rows of " + std::to_string(width) +
                                    " are needed, not " + (ggml_is_contiguous(tensor) ? "" : "scattered ") +
                                    ggml_type_name(tensor->type) + " rows of " + std::to_string(tensor->ne[0]));
}

Status check_pairs(const TestTimeMemory& memory, const ggml_tensor* keys, const ggml_tensor* values) {
    if (Status status = check_rows("keys", keys, memory.features().config().d); !status.is_ok()) return status;
    if (Status status = check_rows("values", values, memory.learner().shape().d_out); !status.is_ok()) return status;
    if (ggml_nrows(keys) == ggml_nrows(values)) return Status::ok();
    return Status::invalid_argument(std::to_string(ggml_nrows(keys)) + " keys for " +
                                    std::to_string(ggml_nrows(values)) + " values");
}

Status check_given(std::initializer_list<std::pair<const void*, const char*>> arguments) {
    for (const auto& [argument, name] : arguments) {
        if (!argument) return Status::invalid_argument(std::string(name) + " is NULL");
    }
    return Status::ok();
}

struct Shape {
    int64_t ne[4];
};

/** As many rows as `like`, of another width. */
Shape rows_of(size_t width, const ggml_tensor* like) {
    return {{static_cast<int64_t>(width), like->ne[1], like->ne[2], like->ne[3]}};
}

/** Adds the node, if ggml has room for it: where it has not, it ends the process. */
Status add_node(ggml_context* ctx, const Shape& shape, std::initializer_list<ggml_tensor*> sources,
                ggml_custom_op_t run, int tasks, void* data, ggml_tensor** node) {
    constexpr size_t kAlignment = 64;  // more than ggml's
    size_t bytes = ggml_tensor_overhead() + kAlignment;
    if (!ggml_get_no_alloc(ctx)) {
        size_t elements = sizeof(float);
        for (const int64_t n : shape.ne) elements *= static_cast<size_t>(n);
        bytes += elements + kAlignment;
    }
    const size_t left = ggml_get_mem_size(ctx) - ggml_used_mem(ctx);
    if (bytes > left)
        return Status::out_of_memory("the ggml context has " + std::to_string(left) + " bytes left, a node needs " +
                                     std::to_string(bytes));
    std::vector<ggml_tensor*> from(sources);
    *node = ggml_custom_4d(ctx, GGML_TYPE_F32, shape.ne[0], shape.ne[1], shape.ne[2], shape.ne[3], from.data(),
                           static_cast<int>(from.size()), run, tasks, data);
    return Status::ok();
}

const float* floats(const ggml_tensor* tensor) { return static_cast<const float*>(tensor->data); }

/** Rows [first, last) of thread `ith` of `nth`. */
std::pair<int64_t, int64_t> share(int64_t rows, int ith, int nth) { return {rows * ith / nth, rows * (ith + 1) / nth}; }

/** Calls map(first, count, buffer) over a thread's rows, in pieces whose mapped features fit the caches. */
template <class Visit>
void map_pieces(const TestTimeMemory& memory, const ggml_tensor* x, int ith, int nth, const Visit& visit) {
    constexpr int64_t kPiece = 64;
    thread_local atlas::PerThread<std::vector<float>> of_mapped;
    std::vector<float>& mapped = of_mapped.get();
    const FeatureMap& map = memory.features();
    mapped.resize(kPiece * map.features());
    const auto [first, last] = share(ggml_nrows(x), ith, nth);
    for (int64_t row = first; row < last; row += kPiece) {
        const int64_t count = std::min(kPiece, last - row);
        map.map(floats(x) + row * x->ne[0], static_cast<size_t>(count), mapped.data());
        visit(row, count, mapped.data());
    }
}

// Nodes run inside the host's threads: nothing may throw into it. A failed node leaves zeros and says so.
template <class Body>
void run_guarded(const char* operation, ggml_tensor* dst, const Body& body) {
    try {
        body();
    } catch (const std::exception& error) {
        atlas::log().error("{}: {}; its result is zero", operation, error.what());
        std::memset(dst->data, 0, ggml_nbytes(dst));
    }
}

void run_forward(ggml_tensor* dst, int ith, int nth, void* data) {
    run_guarded("atlas_memory_forward", dst, [&] {
        const TestTimeMemory& memory = static_cast<const atlas_memory*>(data)->memory;
        const OmegaLearner& learner = memory.learner();
        thread_local atlas::PerThread<MemoryWorkspace> work;
        map_pieces(memory, dst->src[0], ith, nth, [&](int64_t row, int64_t count, const float* mapped) {
            memory_forward(learner.shape(), learner.parameters().data(), mapped, static_cast<size_t>(count),
                           static_cast<float*>(dst->data) + row * dst->ne[0], &work.get());
        });
    });
}

void run_update(ggml_tensor* dst, int ith, int /*nth*/, void* data) {
    if (ith != 0) return;
    run_guarded("atlas_memory_update", dst, [&] {
        TestTimeMemory& memory = static_cast<atlas_memory*>(data)->memory;
        memory.learn(floats(dst->src[0]), floats(dst->src[1]), nullptr, static_cast<size_t>(ggml_nrows(dst->src[0])));
        *static_cast<float*>(dst->data) = static_cast<float>(memory.learner().stats().loss);
    });
}

void run_loss(ggml_tensor* dst, int ith, int /*nth*/, void* data) {
    if (ith != 0) return;
    run_guarded("atlas_omega_loss", dst, [&] {
        const TestTimeMemory& memory = static_cast<const atlas_memory*>(data)->memory;
        const OmegaLearner& learner = memory.learner();
        const int64_t rows = ggml_nrows(dst->src[0]);
        const int64_t first = std::max<int64_t>(0, rows - learner.config().window);
        const size_t d_out = learner.shape().d_out;
        const auto count = static_cast<size_t>(rows - first);
        std::vector<float> mapped(count * memory.features().features()), y(count * d_out);
        memory.features().map(floats(dst->src[0]) + first * dst->src[0]->ne[0], count, mapped.data());
        MemoryWorkspace work;
        memory_forward(learner.shape(), learner.parameters().data(), mapped.data(), count, y.data(), &work);
        atlas::kernels::scaled_add(-1.0f, floats(dst->src[1]) + static_cast<size_t>(first) * d_out, 1.0f, y.size(),
                                   y.data());
        double loss = 0.0;
        for (size_t i = 0; i < count; ++i)
            loss = loss * learner.config().decay + atlas::kernels::square_sum(y.data() + i * d_out, d_out);
        *static_cast<float*>(dst->data) = static_cast<float>(loss);
    });
}

void run_muon(NewtonSchulz kind, ggml_tensor* dst, int ith, int nth) {
    run_guarded("atlas_muon_step", dst, [&] {
        thread_local atlas::PerThread<MuonWorkspace> of_work;
        MuonWorkspace& work = of_work.get();
        const ggml_tensor* s = dst->src[0];
        const int64_t matrices = s->ne[2] * s->ne[3];
        for (int64_t i = ith; i < matrices; i += nth) {
            const int64_t offset = i * s->ne[0] * s->ne[1];
            muon_step(kind, static_cast<size_t>(s->ne[1]), static_cast<size_t>(s->ne[0]), floats(s) + offset,
                      static_cast<float*>(dst->data) + offset, &work);
        }
    });
}

template <NewtonSchulz kKind>
void run_muon_of(ggml_tensor* dst, int ith, int nth, void* /*data*/) {
    run_muon(kKind, dst, ith, nth);
}

void run_features(ggml_tensor* dst, int ith, int nth, void* data) {
    run_guarded("atlas_feature_map", dst, [&] {
        map_pieces(static_cast<const atlas_memory*>(data)->memory, dst->src[0], ith, nth,
                   [&](int64_t row, int64_t count, const float* mapped) {
                       std::copy_n(mapped, count * dst->ne[0], static_cast<float*>(dst->data) + row * dst->ne[0]);
                   });
    });
}

}  // namespace

atlas_status atlas_memory_default_params(atlas_memory_params* params) {
    return guarded(__func__, [&] {
        if (Status status = check_sized(params, kSmallestParams, "params"); !status.is_ok()) return status;
        atlas_memory_params filled{};
        filled.feature_type = ATLAS_FEATURE_POLYNOMIAL;
        filled.degree = 2;
        filled.features = 256;
        filled.normalize = true;
        filled.kind = ATLAS_MEMORY_DEEP;
        filled.hidden = 128;
        filled.window = 16;
        filled.decay = 1.0;
        filled.momentum = 0.9;
        filled.retention = 1.0;
        filled.step = 0.01;
        filled.muon = ATLAS_MUON_STANDARD;
        filled.chunk = 64;
        filled.seed = 1;
        give_sized(filled, params);
        return Status::ok();
    });
}

atlas_status atlas_memory_create(const atlas_memory_params* params, atlas_memory** memory) {
    return guarded(__func__, [&] {
        atlas_memory_params taken{};
        if (Status status = take_sized(params, kSmallestParams, "params", &taken); !status.is_ok()) return status;
        if (Status status = check_given({{memory, "memory"}}); !status.is_ok()) return status;
        if (Status status = check_kinds(taken); !status.is_ok()) return status;
        const MemoryConfig config = config_of(taken);
        if (Status status = check_memory(config); !status.is_ok()) return status;
        *memory = new atlas_memory(config);
        return Status::ok();
    });
}

void atlas_memory_free(atlas_memory* memory) { delete memory; }

atlas_status atlas_memory_reset(atlas_memory* memory) {
    return guarded(__func__, [&] {
        if (Status status = check_given({{memory, "memory"}}); !status.is_ok()) return status;
        memory->memory.reset();
        return Status::ok();
    });
}

atlas_status atlas_memory_state_size(atlas_memory* memory, size_t* bytes) {
    return guarded(__func__, [&] {
        if (Status status = check_given({{memory, "memory"}, {bytes, "bytes"}}); !status.is_ok()) return status;
        *bytes = memory->memory.save().size();
        return Status::ok();
    });
}

atlas_status atlas_memory_save(atlas_memory* memory, void* data, size_t size, size_t* written) {
    return guarded(__func__, [&] {
        if (Status status = check_given({{memory, "memory"}, {data, "data"}}); !status.is_ok()) return status;
        const std::vector<std::byte> state = memory->memory.save();
        if (state.size() > size)
            return Status::invalid_argument("size " + std::to_string(size) + ": the state has " +
                                            std::to_string(state.size()) + " bytes");
        std::memcpy(data, state.data(), state.size());
        if (written) *written = state.size();
        return Status::ok();
    });
}

atlas_status atlas_memory_restore(atlas_memory* memory, const void* data, size_t size) {
    return guarded(__func__, [&] {
        if (Status status = check_given({{memory, "memory"}, {data, "data"}}); !status.is_ok()) return status;
        return memory->memory.restore({static_cast<const std::byte*>(data), size});
    });
}

atlas_status atlas_memory_get_stats(const atlas_memory* memory, atlas_memory_stats* stats) {
    return guarded(__func__, [&] {
        if (Status status = check_given({{memory, "memory"}}); !status.is_ok()) return status;
        if (Status status = check_sized(stats, kSmallestStats, "stats"); !status.is_ok()) return status;
        const OmegaStats& s = memory->memory.learner().stats();
        give_sized(atlas_memory_stats{0, s.pairs, s.skipped_pairs, s.skipped_updates, s.muon_steps, s.loss,
                                      memory->memory.learner().window().fill_ratio(),
                                      memory->memory.cache_stats().hit_ratio(), memory->memory.bytes()},
                   stats);
        return Status::ok();
    });
}

atlas_status atlas_memory_feature_count(const atlas_memory* memory, int32_t* count) {
    return guarded(__func__, [&] {
        if (Status status = check_given({{memory, "memory"}, {count, "count"}}); !status.is_ok()) return status;
        *count = static_cast<int32_t>(memory->memory.features().features());
        return Status::ok();
    });
}

atlas_status atlas_memory_forward(ggml_context* ctx, atlas_memory* memory, ggml_tensor* queries, ggml_tensor** node) {
    return guarded(__func__, [&] {
        if (Status status = check_given({{ctx, "ctx"}, {memory, "memory"}, {node, "node"}}); !status.is_ok())
            return status;
        const TestTimeMemory& m = memory->memory;
        if (Status status = check_rows("queries", queries, m.features().config().d); !status.is_ok()) return status;
        return add_node(ctx, rows_of(m.learner().shape().d_out, queries), {queries}, run_forward, GGML_N_TASKS_MAX,
                        memory, node);
    });
}

atlas_status atlas_memory_update(ggml_context* ctx, atlas_memory* memory, ggml_tensor* keys, ggml_tensor* values,
                                 ggml_tensor** node) {
    return guarded(__func__, [&] {
        if (Status status = check_given({{ctx, "ctx"}, {memory, "memory"}, {node, "node"}}); !status.is_ok())
            return status;
        if (Status status = check_pairs(memory->memory, keys, values); !status.is_ok()) return status;
        return add_node(ctx, {{1, 1, 1, 1}}, {keys, values}, run_update, 1, memory, node);
    });
}

atlas_status atlas_omega_loss(ggml_context* ctx, atlas_memory* memory, ggml_tensor* keys, ggml_tensor* values,
                              ggml_tensor** node) {
    return guarded(__func__, [&] {
        if (Status status = check_given({{ctx, "ctx"}, {memory, "memory"}, {node, "node"}}); !status.is_ok())
            return status;
        if (Status status = check_pairs(memory->memory, keys, values); !status.is_ok()) return status;
        return add_node(ctx, {{1, 1, 1, 1}}, {keys, values}, run_loss, 1, memory, node);
    });
}

atlas_status atlas_muon_step(ggml_context* ctx, ggml_tensor* s, atlas_muon_kind kind, ggml_tensor** node) {
    return guarded(__func__, [&] {
        if (Status status = check_given({{ctx, "ctx"}, {s, "s"}, {node, "node"}}); !status.is_ok()) return status;
        if (Status status = check_rows("s", s, static_cast<size_t>(s->ne[0])); !status.is_ok()) return status;
        if (Status status = check_enum("kind", kind, ATLAS_MUON_NONE); !status.is_ok()) return status;
        const ggml_custom_op_t run = kind == ATLAS_MUON_STANDARD        ? run_muon_of<NewtonSchulz::kStandard>
                                     : kind == ATLAS_MUON_POLAR_EXPRESS ? run_muon_of<NewtonSchulz::kPolarExpress>
                                                                        : run_muon_of<NewtonSchulz::kNone>;
        return add_node(ctx, rows_of(static_cast<size_t>(s->ne[0]), s), {s}, run, GGML_N_TASKS_MAX, nullptr, node);
    });
}

atlas_status atlas_feature_map(ggml_context* ctx, atlas_memory* memory, ggml_tensor* x, ggml_tensor** node) {
    return guarded(__func__, [&] {
        if (Status status = check_given({{ctx, "ctx"}, {memory, "memory"}, {node, "node"}}); !status.is_ok())
            return status;
        const FeatureMap& map = memory->memory.features();
        if (Status status = check_rows("x", x, map.config().d); !status.is_ok()) return status;
        return add_node(ctx, rows_of(map.features(), x), {x}, run_features, GGML_N_TASKS_MAX, memory, node);
    });
}
