#include "host/ops/sparse_columns.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/parallel.h"
#include "host/graph/op_kind.h"
#include "host/ops/mat_mul.h"
#include "kernels/columns.h"

namespace atlas::host {
namespace {

// Sums of the same inputs whatever the threads. More of them than threads, since cores may differ in speed.
constexpr int64_t kShares = 8;
constexpr int64_t kRowsOfSum = 256;
// Copying: so many columns lie in the cache while rows go by.
constexpr int64_t kColumnsOfCopy = 64;
// A size is the exponent and the first four bits of the fraction of an input: neighbours differ by 6 % at most.
constexpr uint32_t kSizeShift = 19;
constexpr size_t kSizes = size_t{1} << (31 - kSizeShift);

uint32_t size_of(float x) { return (std::bit_cast<uint32_t>(x) & 0x7FFFFFFFu) >> kSizeShift; }

template <class Word>
void copy_columns(const ggml_tensor* weights, int64_t begin, int64_t end, std::byte* to) {
    const int64_t rows = weights->ne[1];
    auto* const out = reinterpret_cast<Word*>(to);
    for (int64_t r = 0; r < rows; ++r) {
        const auto* const row = static_cast<const std::byte*>(weights->data) + static_cast<size_t>(r) * weights->nb[1];
        for (int64_t c = begin; c < end; ++c)
            std::memcpy(out + c * rows + r, row + static_cast<size_t>(c) * sizeof(Word), sizeof(Word));
    }
}

}  // namespace

bool SparseColumns::has_type(const ggml_tensor* node) {
    const ggml_type type = node->src[0]->type;
    return type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || type == GGML_TYPE_BF16;
}

float SparseColumns::threshold_of(const ggml_tensor* weights, double share, const side_car::Thresholds& thresholds) {
    Known& known = known_[weights->data];
    if (known.share != share)
        known = {share, thresholds.of(weights->name, weights->ne[0], weights->ne[1], share)};
    return known.threshold;
}

const SparseColumns::Copy& SparseColumns::copy_of(const ggml_tensor* weights, int n_threads) {
    Copy& copy = copies_[weights->data];
    if (copy.type == weights->type && copy.inputs == weights->ne[0] && copy.outputs == weights->ne[1]) return copy;
    bytes_ -= copy.columns.size();
    copy.columns = {};
    copy.type = GGML_TYPE_COUNT;  // of no use if there is no memory
    const size_t element = ggml_type_size(weights->type);
    const int64_t inputs = weights->ne[0];
    copy.columns.resize(static_cast<size_t>(inputs * weights->ne[1]) * element);
    bytes_ += copy.columns.size();
    const int64_t blocks = (inputs + kColumnsOfCopy - 1) / kColumnsOfCopy;
    parallel_for(blocks, n_threads, Schedule::kDynamic, [&](int64_t i) {
        const int64_t begin = i * kColumnsOfCopy, end = std::min(inputs, begin + kColumnsOfCopy);
        if (element == sizeof(uint16_t)) {
            copy_columns<uint16_t>(weights, begin, end, copy.columns.data());
        } else {
            copy_columns<uint32_t>(weights, begin, end, copy.columns.data());
        }
    });
    copy.inputs = inputs;
    copy.outputs = weights->ne[1];
    copy.type = weights->type;
    return copy;
}

/** All but the smallest ⌊share · n⌋; of those that are of one size the first ones go. What is no number is large. */
void SparseColumns::choose(const float* x, int64_t n, double share) {
    auto left = static_cast<uint64_t>(share * static_cast<double>(n));
    counts_.assign(kSizes, 0);
    for (int64_t i = 0; i < n; ++i) ++counts_[size_of(x[i])];
    uint32_t border = 0;
    while (border < kSizes && counts_[border] <= left) left -= counts_[border++];
    which_.clear();
    factors_.clear();
    for (int64_t i = 0; i < n; ++i) {
        const uint32_t size = size_of(x[i]);
        if (size < border) continue;
        if (size == border && left > 0) {
            --left;
            continue;
        }
        which_.push_back(static_cast<int32_t>(i));
        factors_.push_back(x[i]);
    }
}

void SparseColumns::choose_above(const float* x, int64_t n, float threshold) {
    which_.resize(static_cast<size_t>(n));
    factors_.resize(static_cast<size_t>(n));
    size_t count = 0;
    for (int64_t i = 0; i < n; ++i) {
        which_[count] = static_cast<int32_t>(i);
        factors_[count] = x[i];
        // What is no number is large.
        count += std::abs(x[i]) < threshold ? 0 : 1;
    }
    which_.resize(count);
    factors_.resize(count);
}

bool SparseColumns::run(const ggml_tensor* node, double share, const side_car::Thresholds* thresholds, int n_threads,
                        SparseBytes* bytes) {
    const ggml_tensor* weights = node->src[0];
    const ggml_tensor* columns = node->src[1];
    if (!has_type(node) || ggml_nrows(columns) != 1) return false;
    const auto* const x = static_cast<const float*>(columns->data);
    if (thresholds) {
        const float threshold = threshold_of(weights, share, *thresholds);
        if (!(threshold > 0.0f)) return false;
        choose_above(x, weights->ne[0], threshold);
    } else if (root_of(columns)->op == GGML_OP_GLU) {
        choose(x, weights->ne[0], share);
    } else {
        return false;
    }
    const uint64_t column_bytes = static_cast<uint64_t>(weights->ne[1]) * ggml_type_size(weights->type);
    bytes->all += column_bytes * static_cast<uint64_t>(weights->ne[0]);
    bytes->read += column_bytes * which_.size();
    add_chosen(node, copy_of(weights, n_threads), n_threads);
    return true;
}

void SparseColumns::add_chosen(const ggml_tensor* node, const Copy& copy, int n_threads) {
    const ggml_tensor* weights = node->src[0];
    const auto rows = static_cast<size_t>(copy.outputs);
    const auto count = static_cast<int64_t>(which_.size());
    parts_.resize(kShares * rows);
    kernels::ColumnSum sum{};
    sum.type = *weight_type_of(weights);
    sum.columns = copy.columns.data();
    sum.stride = rows * ggml_type_size(weights->type);
    sum.n = copy.outputs;
    const auto add_share = [&](int64_t i) {
        kernels::ColumnSum part = sum;
        const int64_t begin = count * i / kShares;
        part.which = which_.data() + begin;
        part.factors = factors_.data() + begin;
        part.count = count * (i + 1) / kShares - begin;
        part.y = parts_.data() + static_cast<size_t>(i) * rows;
        std::fill_n(part.y, rows, 0.0f);
        kernels::add_columns(part);
    };
    const auto add_parts = [&](int64_t i) {
        auto* const out = static_cast<float*>(node->data);
        const auto begin = static_cast<size_t>(i * kRowsOfSum);
        const size_t end = std::min(rows, begin + kRowsOfSum);
        for (size_t r = begin; r < end; ++r) {
            float total = 0.0f;
            for (size_t part = 0; part < kShares; ++part) total += parts_[part * rows + r];
            out[r] = total;
        }
    };
    parallel_loops(n_threads, Loop{kShares, Schedule::kDynamic, add_share},
                   Loop{(copy.outputs + kRowsOfSum - 1) / kRowsOfSum, Schedule::kStatic, add_parts});
}

}  // namespace atlas::host
