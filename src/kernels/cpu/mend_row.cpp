#include "kernels/cpu/mend_row.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "kernels/row_codec.h"

namespace atlas::kernels::cpu {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

/** Online softmax over single cells. */
class CarefulRow {
public:
    CarefulRow(const Problem& problem, int64_t stream, int64_t token, int64_t head)
        : p_(problem),
          query_(problem.query(stream, token, head)),
          mask_(problem.mask_row(stream, token, head)),
          slope_(alibi_slope(problem.args.max_bias, head, problem.args.n_head)) {
        if (p_.args.sinks && p_.args.sinks[head] != kMinusInfinity) {
            max_ = p_.args.sinks[head];
            sum_ = 1;
        }
    }

    void add(const Piece& piece) {
        for (size_t j = 0; j < piece.count; ++j) {
            const uint16_t bias = mask_[piece.key + static_cast<int64_t>(j)];
            if (bias == kHidden) continue;
            const auto cell = static_cast<int64_t>(j);
            add_cell(piece.k + cell * p_.args.k_stride, piece.v + cell * p_.args.v_stride,
                     static_cast<double>(slope_) * f16_to_f32(bias));
        }
    }

    void write(float* out, float* lse) const {
        for (int64_t i = 0; i < p_.args.d_v; ++i)
            out[i] = sum_ == 0 ? 0.0f : static_cast<float>(values_[static_cast<size_t>(i)] / sum_);
        if (lse) *lse = static_cast<float>(sum_ == 0 ? kMinusInfinity : max_ + std::log(sum_));
    }

    bool is_nan() const { return std::isnan(sum_); }

private:
    static constexpr uint16_t kHidden = 0xFC00;

    const float* decode(DataType type, RowDecoder other, const std::byte* row, int64_t d) {
        decode_rows(p_.ops, type, other, row, 0, 1, d, row_.data());
        return row_.data();
    }

    void add_cell(const std::byte* k_row, const std::byte* v_row, double bias) {
        const AttentionArgs& args = p_.args;
        const float* k = decode(args.k_type, args.k_decode, k_row, args.d_k);
        double score = 0;
        for (int64_t i = 0; i < args.d_k; ++i) score += static_cast<double>(query_[i]) * k[i];
        score *= args.scale;
        if (args.softcap != 0.0f) score = args.softcap * std::tanh(score / args.softcap);
        score += bias;
        if (score == kMinusInfinity) return;
        if (score > max_) {
            const double shrink = std::exp(max_ - score);
            for (int64_t i = 0; i < args.d_v; ++i) values_[static_cast<size_t>(i)] *= shrink;
            sum_ *= shrink;
            max_ = score;
        }
        const double weight = std::exp(score - max_);
        const float* v = decode(args.v_type, args.v_decode, v_row, args.d_v);
        for (int64_t i = 0; i < args.d_v; ++i) values_[static_cast<size_t>(i)] += weight * v[i];
        sum_ += weight;
    }

    const Problem& p_;
    const float* query_;
    const uint16_t* mask_;
    const float slope_;
    double max_ = kMinusInfinity;
    double sum_ = 0;
    std::array<double, kMaxHeadSize> values_{};
    std::array<float, kMaxHeadSize> row_;
};

}  // namespace

void mend_row(const Problem& problem, int64_t stream, int64_t token, int64_t head) {
    const AttentionArgs& args = problem.args;
    float* out = problem.out(stream, token, head);
    if (!args.mask.data || problem.ops.finite(out, static_cast<size_t>(args.d_v))) return;
    const int64_t list = token / problem.tokens_per_list;
    const HeadRuns& runs = problem.runs(stream, head / problem.group, list);
    int64_t keys = 0;
    for (const Run& run : runs.runs) keys += run.count;
    CarefulRow row(problem, stream, token, head);
    // A visible score that is NaN settles the row.
    for_each_piece(args, runs, 0, keys, [&](const Piece& piece) {
        if (!row.is_nan()) row.add(piece);
    });
    if (row.is_nan()) {
        std::fill_n(out, args.d_v, std::numeric_limits<float>::quiet_NaN());
        if (args.lse)
            args.lse[(stream * args.n_tokens + token) * args.n_head + head] = std::numeric_limits<float>::quiet_NaN();
        return;
    }
    row.write(out, args.lse ? args.lse + (stream * args.n_tokens + token) * args.n_head + head : nullptr);
}

}  // namespace atlas::kernels::cpu
