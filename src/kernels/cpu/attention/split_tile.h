#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/attention/prefill_workspace.h"
#include "kernels/cpu/attention/split_products.h"

namespace atlas::kernels::cpu {

/** What a task of many-query attention multiplies, on tiles (VectorProducts in prefill-inl.h is the same in vectors). Of one thread. */
class SplitProducts {
public:
    static constexpr PrefillShape kShape = kSplitShape;

    /** `rows`: of the task, whole blocks. */
    SplitProducts(const AttentionArgs& args, const PrefillWorkspace& ws, int64_t rows)
        : ws_(ws),
          d_k_(args.d_k),
          k_stride_(round_up(args.d_k, kPad)),
          o_stride_(round_up(args.d_v, kPad)),
          q_(left(ws.q, rows, k_stride_)),
          weights_(left(ws.weights, kShape.row_block, kBlockKeys)),
          k_(right(ws.k_panel, k_stride_, kBlockKeys, args.k_type)),
          v_(right(ws.v_panel, kBlockKeys, o_stride_, args.v_type)) {}

    void put_query(int64_t row, const float* from, float factor) const { split_row(from, d_k_, factor, q_.at(row)); }
    void put_keys(int column) const { split_columns(ws_.decoded, k_stride_, k_stride_, k_.at(0, column)); }
    void end_keys(int end) const {
        for (int64_t pair = 0; pair < k_stride_ / 2; ++pair) clear(k_.at(pair, end), kBlockKeys - end);
    }
    void put_values(int key) const {
        for (int64_t j = 0; j < kShape.decode_rows; j += 2) {
            const float* row = ws_.decoded + j * o_stride_;
            split_pair(row, row + o_stride_, o_stride_, v_.at((key + j) / 2, 0));
        }
    }
    void end_values(int end) const {
        for (int64_t pair = end / 2; pair < kBlockKeys / 2; ++pair) clear(v_.at(pair, 0), o_stride_);
    }

    void scores(int64_t first, int64_t n) const {
        split_product(q_.at(first), k_, n, kBlockKeys, k_stride_, false, ws_.s, kBlockKeys);
    }
    /** Scores of row r of the block become weights; `max` and `sum` are the row's. Returns the correction. */
    float weigh(int64_t r, float slack, float* max, float* sum) const {
        return split_weights(ws_.s + r * kBlockKeys, slack, max, sum, weights_.at(r));
    }
    /** Row r of the block sees nothing. */
    void weigh_nothing(int64_t r) const {
        std::fill_n(weights_.at(r).high, kBlockKeys, uint16_t{0});
        std::fill_n(weights_.at(r).rest, kBlockKeys, uint16_t{0});
    }
    void add_values(int64_t first, int64_t n, int /*n_keys*/) const {
        float* o = ws_.o + first * o_stride_;
        for (int64_t r = 0; r < n; ++r) {
            const float factor = ws_.correction[r];
            if (factor == 1.0f) continue;
            for (int64_t i = 0; i < o_stride_; ++i) o[r * o_stride_ + i] *= factor;
        }
        split_product(weights_, v_, n, o_stride_, kBlockKeys, true, o, o_stride_);
    }

private:
    static SplitRows left(float* at, int64_t rows, int64_t stride) {
        auto* high = reinterpret_cast<uint16_t*>(at);
        return {high, high + rows * stride, stride};
    }
    static SplitPairs right(float* at, int64_t depth, int64_t stride, DataType type) {
        auto* high = reinterpret_cast<uint32_t*>(at);
        return {high, high + depth / 2 * stride, stride, type == DataType::kBF16};
    }
    static void clear(SplitPairs at, int64_t words) {
        std::fill_n(at.high, words, 0u);
        if (!at.whole) std::fill_n(at.rest, words, 0u);
    }

    const PrefillWorkspace& ws_;
    const int64_t d_k_, k_stride_, o_stride_;
    const SplitRows q_, weights_;
    const SplitPairs k_, v_;
    // The tiles of this thread are shaped for as long as its task runs.
    const SplitScope scope_;
};

}  // namespace atlas::kernels::cpu
