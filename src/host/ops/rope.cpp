#include "host/ops/rope.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>

#include "host/graph/op_kind.h"
#include "host/ops/rows.h"
#include "kernels/layers.h"

namespace atlas::host {
namespace {

constexpr int kKnownParams = 11;

/** The words of op_params by their meaning. */
struct Params {
    int32_t dims, mode, original_context;
    float base, scale, extrapolation, magnitude, fast, slow;

    explicit Params(const ggml_tensor* node)
        : dims(node->op_params[1]),
          mode(node->op_params[2]),
          original_context(node->op_params[4]),
          base(number(node, 5)),
          scale(number(node, 6)),
          extrapolation(number(node, 7)),
          magnitude(number(node, 8)),
          fast(number(node, 9)),
          slow(number(node, 10)) {}

private:
    static float number(const ggml_tensor* node, int i) {
        float value;
        std::memcpy(&value, node->op_params + i, sizeof value);
        return value;
    }
};

/** YaRN's dimensions between which interpolated positions take over from extrapolated ones. */
struct Ramp {
    float low, high;

    explicit Ramp(const Params& params) : low(dimension(params, params.fast)), high(dimension(params, params.slow)) {
        low = std::max(0.0f, std::floor(low));
        high = std::min(static_cast<float>(params.dims - 1), std::ceil(high));
    }
    /** Share of the extrapolated angle of a pair. */
    float at(int64_t pair) const {
        const float y = (static_cast<float>(pair) - low) / std::max(0.001f, high - low);
        return 1.0f - std::clamp(y, 0.0f, 1.0f);
    }

private:
    /** The dimension that turns so often within the context of training. */
    static float dimension(const Params& params, float turns) {
        const float wave = static_cast<float>(params.original_context) / (turns * 2.0f * std::numbers::pi_v<float>);
        return static_cast<float>(params.dims) * std::log(wave) / (2.0f * std::log(params.base));
    }
};

}  // namespace

Status check_rope(const ggml_tensor* node) {
    const ggml_tensor* x = node->src[0];
    const ggml_tensor* positions = node->src[1];
    const ggml_tensor* factors = node->src[2];
    const Params params(node);
    if (!has_plain_rows(node) || !has_plain_rows(x) || !ggml_are_same_shape(node, x))
        return Status::unsupported("rows that are not f32 and together");
    if (params.mode != GGML_ROPE_TYPE_NORMAL && params.mode != GGML_ROPE_TYPE_NEOX)
        return Status::unsupported("mode " + std::to_string(params.mode));
    if (params.dims <= 0 || params.dims % 2 != 0 || params.dims > x->ne[0])
        return Status::unsupported(std::to_string(params.dims) + " of " + std::to_string(x->ne[0]) + " dimensions");
    if (positions->type != GGML_TYPE_I32 || !ggml_is_contiguous(positions) || positions->ne[0] != x->ne[2])
        return Status::unsupported("positions that are not one i32 per token");
    if (factors && (factors->type != GGML_TYPE_F32 || !ggml_is_contiguous(factors) || factors->ne[0] < params.dims / 2))
        return Status::unsupported("factors that are not one f32 per pair");
    return Status::ok();
}

void Rope::make_turns(const ggml_tensor* node, int n_threads) {
    const Params params(node);
    const int64_t pairs = params.dims / 2, tokens = node->ne[2];
    const auto* positions = static_cast<const int32_t*>(node->src[1]->data);
    const auto* factors = node->src[2] ? static_cast<const float*>(node->src[2]->data) : nullptr;
    const Ramp ramp(params);
    const float step = std::pow(params.base, -2.0f / static_cast<float>(params.dims));
    float magnitude = params.magnitude;
    // YaRN lengthens queries and keys with the interpolated share.
    if (params.extrapolation != 0.0f) magnitude *= 1.0f + 0.1f * std::log(1.0f / params.scale);
    positions_ = nullptr;
    turns_.resize(static_cast<size_t>(2 * pairs * tokens));
    parallel_for(tokens, tokens * pairs <= kSerialElements / 16 ? 1 : n_threads, Schedule::kStatic, [&](int64_t t) {
        float* cosines = turns_.data() + static_cast<size_t>(2 * pairs * t);
        float* sines = cosines + pairs;
        // Angles are multiplied from pair to pair in f32, as the host does: powers found apart differ at far positions.
        auto angle = static_cast<float>(positions[t]);
        for (int64_t i = 0; i < pairs; ++i, angle *= step) {
            const float extrapolated = factors ? angle / factors[i] : angle;
            float theta = params.scale * extrapolated;
            if (params.extrapolation != 0.0f) {
                const float share = ramp.at(i) * params.extrapolation;
                theta = theta * (1.0f - share) + extrapolated * share;
            }
            cosines[i] = std::cos(theta) * magnitude;
            sines[i] = std::sin(theta) * magnitude;
        }
    });
}

Status Rope::run(const ggml_tensor* node, int n_threads) {
    const Params params(node);
    const ggml_tensor* positions = node->src[1];
    const void* factors = node->src[2] ? node->src[2]->data : nullptr;
    // Inputs of the graph stay what they are while it runs; what a node writes may change between two of ours.
    const bool known = positions == positions_ && factors == factors_ && root_of(positions)->op == GGML_OP_NONE &&
                       std::equal(params_.begin(), params_.end(), node->op_params);
    if (!known) {
        make_turns(node, n_threads);
        params_.assign(node->op_params, node->op_params + kKnownParams);
        factors_ = factors;
        positions_ = positions;
    }
    const auto dims = static_cast<size_t>(params.dims);
    const auto rest = static_cast<size_t>(node->ne[0]) - dims;
    const auto which = params.mode == GGML_ROPE_TYPE_NEOX ? kernels::RopePairs::kHalves : kernels::RopePairs::kAdjacent;
    for_rows(node, n_threads, [&](Row row) {
        const float* x = row_of(node->src[0], row);
        float* y = row_of(node, row);
        const float* cosines = turns_.data() + static_cast<size_t>(row.i2) * dims;
        kernels::rotate_pairs(which, x, cosines, cosines + dims / 2, dims / 2, y);
        if (rest != 0 && x != y) std::memmove(y + dims, x + dims, rest * sizeof(float));
    });
    return Status::ok();
}

}  // namespace atlas::host
