#include <atlas/memory_ops.h>
#include <ggml.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <string>

#include "base/log.h"
#include "memory/test_time_memory.h"
#include "kernels/elementwise.h"

struct atlas_memory {
    explicit atlas_memory(const atlas::memory::MemoryConfig& config) : memory(config) {}
    atlas::memory::TestTimeMemory memory;
};

namespace {

using namespace atlas::memory;

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

bool known_kinds(const atlas_memory_params& params) {
    return params.feature_type >= ATLAS_FEATURE_IDENTITY && params.feature_type <= ATLAS_FEATURE_RBF &&
           params.kind >= ATLAS_MEMORY_LINEAR && params.kind <= ATLAS_MEMORY_GATED &&
           params.muon >= ATLAS_MUON_STANDARD && params.muon <= ATLAS_MUON_NONE;
}

bool fits(const char* operation, const ggml_tensor* tensor, size_t width) {
    if (tensor && tensor->type == GGML_TYPE_F32 && ggml_is_contiguous(tensor) &&
        tensor->ne[0] == static_cast<int64_t>(width))
        return true;
    atlas::log().error(
        "{}: a contiguous f32 tensor of rows of {} is needed, not {}", operation, width,
        tensor ? std::string(ggml_type_name(tensor->type)) + " rows of " + std::to_string(tensor->ne[0]) : "null");
    return false;
}

bool pairs_fit(const char* operation, const atlas_memory* memory, const ggml_tensor* keys, const ggml_tensor* values) {
    if (memory == nullptr || !fits(operation, keys, memory->memory.features().config().d) ||
        !fits(operation, values, memory->memory.learner().shape().d_out)) {
        return false;
    }
    if (ggml_nrows(keys) == ggml_nrows(values)) return true;
    atlas::log().error("{}: {} keys for {} values", operation, ggml_nrows(keys), ggml_nrows(values));
    return false;
}

const float* floats(const ggml_tensor* tensor) { return static_cast<const float*>(tensor->data); }

/** Rows [first, last) of thread `ith` of `nth`. */
std::pair<int64_t, int64_t> share(int64_t rows, int ith, int nth) { return {rows * ith / nth, rows * (ith + 1) / nth}; }

/** Calls map(first, count, buffer) over a thread's rows, in pieces whose mapped features fit the caches. */
template <class Visit>
void map_pieces(const TestTimeMemory& memory, const ggml_tensor* x, int ith, int nth, const Visit& visit) {
    constexpr int64_t kPiece = 64;
    thread_local std::vector<float> mapped;
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
void guarded(const char* operation, ggml_tensor* dst, const Body& body) {
    try {
        body();
    } catch (const std::exception& error) {
        atlas::log().error("{}: {}; its result is zero", operation, error.what());
        std::memset(dst->data, 0, ggml_nbytes(dst));
    }
}

void run_forward(ggml_tensor* dst, int ith, int nth, void* data) {
    guarded("atlas_memory_forward", dst, [&] {
        const TestTimeMemory& memory = static_cast<const atlas_memory*>(data)->memory;
        const OmegaLearner& learner = memory.learner();
        thread_local MemoryWorkspace work;
        map_pieces(memory, dst->src[0], ith, nth, [&](int64_t row, int64_t count, const float* mapped) {
            memory_forward(learner.shape(), learner.parameters().data(), mapped, static_cast<size_t>(count),
                           static_cast<float*>(dst->data) + row * dst->ne[0], &work);
        });
    });
}

void run_update(ggml_tensor* dst, int ith, int /*nth*/, void* data) {
    if (ith != 0) return;
    guarded("atlas_memory_update", dst, [&] {
        TestTimeMemory& memory = static_cast<atlas_memory*>(data)->memory;
        memory.learn(floats(dst->src[0]), floats(dst->src[1]), nullptr, static_cast<size_t>(ggml_nrows(dst->src[0])));
        *static_cast<float*>(dst->data) = static_cast<float>(memory.learner().stats().loss);
    });
}

void run_loss(ggml_tensor* dst, int ith, int /*nth*/, void* data) {
    if (ith != 0) return;
    guarded("atlas_omega_loss", dst, [&] {
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
    guarded("atlas_muon_step", dst, [&] {
        thread_local MuonWorkspace work;
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
    guarded("atlas_feature_map", dst, [&] {
        map_pieces(static_cast<const atlas_memory*>(data)->memory, dst->src[0], ith, nth,
                   [&](int64_t row, int64_t count, const float* mapped) {
                       std::copy_n(mapped, count * dst->ne[0], static_cast<float*>(dst->data) + row * dst->ne[0]);
                   });
    });
}

}  // namespace

void atlas_memory_default_params(atlas_memory_params* params) {
    *params = {};
    params->feature_type = ATLAS_FEATURE_POLYNOMIAL;
    params->degree = 2;
    params->features = 256;
    params->normalize = true;
    params->kind = ATLAS_MEMORY_DEEP;
    params->hidden = 128;
    params->window = 16;
    params->decay = 1.0;
    params->momentum = 0.9;
    params->retention = 1.0;
    params->step = 0.01;
    params->muon = ATLAS_MUON_STANDARD;
    params->chunk = 64;
    params->seed = 1;
}

atlas_memory* atlas_memory_create(const atlas_memory_params* params) {
    if (params == nullptr || !known_kinds(*params)) {
        atlas::log().error("atlas_memory_create: {}",
                           params ? "a kind that is not one of the enumeration's" : "no parameters");
        return nullptr;
    }
    try {
        const MemoryConfig config = config_of(*params);
        const atlas::Status status = check_memory(config);
        if (status.is_ok()) return new atlas_memory(config);
        atlas::log().error("atlas_memory_create: {}", status.to_string());
    } catch (const std::exception& error) {
        atlas::log().error("atlas_memory_create: {}", error.what());
    }
    return nullptr;
}

void atlas_memory_free(atlas_memory* memory) { delete memory; }
void atlas_memory_reset(atlas_memory* memory) { memory->memory.reset(); }

size_t atlas_memory_state_size(atlas_memory* memory) {
    try {
        return memory->memory.save().size();
    } catch (const std::exception& error) {
        atlas::log().error("atlas_memory_state_size: {}", error.what());
        return 0;
    }
}

size_t atlas_memory_save(atlas_memory* memory, void* data, size_t size) {
    try {
        const std::vector<std::byte> state = memory->memory.save();
        if (state.size() > size) return 0;
        std::memcpy(data, state.data(), state.size());
        return state.size();
    } catch (const std::exception& error) {
        atlas::log().error("atlas_memory_save: {}", error.what());
        return 0;
    }
}

bool atlas_memory_restore(atlas_memory* memory, const void* data, size_t size) {
    try {
        const atlas::Status status = memory->memory.restore({static_cast<const std::byte*>(data), size});
        if (!status.is_ok()) atlas::log().error("atlas_memory_restore: {}", status.to_string());
        return status.is_ok();
    } catch (const std::exception& error) {
        atlas::log().error("atlas_memory_restore: {}", error.what());
        return false;
    }
}

void atlas_memory_get_stats(const atlas_memory* memory, atlas_memory_stats* stats) {
    const OmegaStats& s = memory->memory.learner().stats();
    *stats = {s.pairs,
              s.skipped_pairs,
              s.skipped_updates,
              s.muon_steps,
              s.loss,
              memory->memory.learner().window().fill_ratio(),
              memory->memory.cache_stats().hit_ratio(),
              memory->memory.bytes()};
}

int32_t atlas_memory_feature_count(const atlas_memory* memory) {
    return static_cast<int32_t>(memory->memory.features().features());
}

ggml_tensor* atlas_memory_forward(ggml_context* ctx, atlas_memory* memory, ggml_tensor* queries) {
    if (memory == nullptr || !fits("atlas_memory_forward", queries, memory->memory.features().config().d))
        return nullptr;
    return ggml_custom_4d(ctx, GGML_TYPE_F32, static_cast<int64_t>(memory->memory.learner().shape().d_out),
                          queries->ne[1], queries->ne[2], queries->ne[3], &queries, 1, run_forward, GGML_N_TASKS_MAX,
                          memory);
}

ggml_tensor* atlas_memory_update(ggml_context* ctx, atlas_memory* memory, ggml_tensor* keys, ggml_tensor* values) {
    if (!pairs_fit("atlas_memory_update", memory, keys, values)) return nullptr;
    ggml_tensor* sources[] = {keys, values};
    return ggml_custom_4d(ctx, GGML_TYPE_F32, 1, 1, 1, 1, sources, 2, run_update, 1, memory);
}

ggml_tensor* atlas_omega_loss(ggml_context* ctx, atlas_memory* memory, ggml_tensor* keys, ggml_tensor* values) {
    if (!pairs_fit("atlas_omega_loss", memory, keys, values)) return nullptr;
    ggml_tensor* sources[] = {keys, values};
    return ggml_custom_4d(ctx, GGML_TYPE_F32, 1, 1, 1, 1, sources, 2, run_loss, 1, memory);
}

ggml_tensor* atlas_muon_step(ggml_context* ctx, ggml_tensor* s, atlas_muon_kind kind) {
    if (s == nullptr || !fits("atlas_muon_step", s, static_cast<size_t>(s->ne[0]))) return nullptr;
    const ggml_custom_op_t run = kind == ATLAS_MUON_STANDARD        ? run_muon_of<NewtonSchulz::kStandard>
                                 : kind == ATLAS_MUON_POLAR_EXPRESS ? run_muon_of<NewtonSchulz::kPolarExpress>
                                                                    : run_muon_of<NewtonSchulz::kNone>;
    return ggml_custom_4d(ctx, GGML_TYPE_F32, s->ne[0], s->ne[1], s->ne[2], s->ne[3], &s, 1, run, GGML_N_TASKS_MAX,
                          nullptr);
}

ggml_tensor* atlas_feature_map(ggml_context* ctx, atlas_memory* memory, ggml_tensor* x) {
    if (memory == nullptr || !fits("atlas_feature_map", x, memory->memory.features().config().d)) return nullptr;
    return ggml_custom_4d(ctx, GGML_TYPE_F32, atlas_memory_feature_count(memory), x->ne[1], x->ne[2], x->ne[3], &x, 1,
                          run_features, GGML_N_TASKS_MAX, memory);
}
