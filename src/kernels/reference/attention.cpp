#include "kernels/reference/reference.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <tuple>
#include <utility>

namespace atlas::kernels::reference {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

int64_t lists_of(const AttentionArgs& args) {
    const int64_t per_list = std::min(args.tokens_per_tile, args.n_tokens);
    return per_list > 0 ? (args.n_tokens + per_list - 1) / per_list : 0;
}

const HeadRuns& list_of(const AttentionArgs& args, int64_t stream, int64_t token, int64_t head) {
    const int64_t per_list = std::min(args.tokens_per_tile, args.n_tokens);
    const int64_t kv_head = head / (args.n_head / args.n_head_kv);
    return args.runs[(stream * args.n_head_kv + kv_head) * lists_of(args) + token / per_list];
}

/** Online softmax over single cells. */
class Row {
public:
    Row(const AttentionArgs& args, int64_t stream, int64_t token, int64_t head)
        : args_(args),
          q_(reinterpret_cast<const float*>(reinterpret_cast<const std::byte*>(args.q) + stream * args.q_stream_stride +
                                            token * args.q_token_stride + head * args.q_head_stride)) {
        if (args.sinks && args.sinks[head] != kMinusInfinity) {
            max_ = args.sinks[head];
            sum_ = 1;
        }
    }

    /** A cell whose logit gets `bias` on top. */
    void add(const std::byte* k_row, const std::byte* v_row, double bias) {
        decode(args_.k_type, args_.k_decode, k_row, args_.d_k);
        double score = 0;
        for (int64_t i = 0; i < args_.d_k; ++i) score += static_cast<double>(q_[i]) * cell_[static_cast<size_t>(i)];
        score *= args_.scale;
        if (args_.softcap != 0.0f) score = args_.softcap * std::tanh(score / args_.softcap);
        score += bias;
        if (score == kMinusInfinity) return;
        if (score > max_) {
            const double shrink = std::exp(max_ - score);
            for (int64_t i = 0; i < args_.d_v; ++i) values_[static_cast<size_t>(i)] *= shrink;
            sum_ *= shrink;
            max_ = score;
        }
        const double weight = std::exp(score - max_);
        decode(args_.v_type, args_.v_decode, v_row, args_.d_v);
        for (int64_t i = 0; i < args_.d_v; ++i) {
            const auto at = static_cast<size_t>(i);
            values_[at] += weight * cell_[at];
        }
        sum_ += weight;
    }

    bool is_nan() const { return std::isnan(sum_); }

    void write(float* out, float* lse) const {
        for (int64_t i = 0; i < args_.d_v; ++i) {
            out[i] = is_nan()    ? std::numeric_limits<float>::quiet_NaN()
                     : sum_ == 0 ? 0.0f
                                 : static_cast<float>(values_[static_cast<size_t>(i)] / sum_);
        }
        if (lse) *lse = static_cast<float>(sum_ == 0 ? kMinusInfinity : max_ + std::log(sum_));
    }

private:
    void decode(DataType type, RowDecoder other, const std::byte* row, int64_t d) {
        (type == DataType::kOther ? other : row_decoder(type))(row, cell_.data(), d);
    }

    const AttentionArgs& args_;
    const float* q_;
    double max_ = kMinusInfinity;
    double sum_ = 0;
    std::array<double, kMaxHeadSize> values_{};
    std::array<float, kMaxHeadSize> cell_;
};

}  // namespace

void attend_row(const AttentionArgs& args, int64_t stream, int64_t token, int64_t head) {
    const HeadRuns& list = list_of(args, stream, token, head);
    const Mask& mask = args.mask;
    const uint16_t* mask_row = mask.data ? mask.data + (stream % mask.n_streams) * mask.stream_stride +
                                               (head % mask.n_heads) * mask.head_stride + token * mask.token_stride
                                         : nullptr;
    const double slope = alibi_slope(args.max_bias, head, args.n_head);
    Row row(args, stream, token, head);
    for (const Run& run : list.runs) {
        const int64_t end = run.has_gaps() ? 64 : run.count;
        for (int64_t j = 0; j < end && !row.is_nan(); ++j) {
            if (run.has_gaps() && (run.cells >> j & 1) == 0) continue;
            const double bias = mask_row ? static_cast<double>(f16_to_f32(mask_row[run.key + j])) : 0.0;
            if (bias == kMinusInfinity) continue;
            row.add(run.k + list.k_offset + j * args.k_stride, run.v + list.v_offset + j * args.v_stride, slope * bias);
        }
    }
    auto* out = reinterpret_cast<float*>(reinterpret_cast<std::byte*>(args.out) + stream * args.out_stream_stride +
                                         token * args.out_token_stride + head * args.out_head_stride);
    row.write(out, args.lse ? args.lse + (stream * args.n_tokens + token) * args.n_head + head : nullptr);
}

Status check_attention(const AttentionArgs& args) {
    const auto bad = [](const std::string& what) { return Status::unsupported("attention: " + what); };
    for (const auto& [d, name] : {std::pair{args.d_k, "key"}, {args.d_v, "value"}}) {
        if (d < 1 || d > kMaxHeadSize) {
            return bad(std::string(name) + " size " + std::to_string(d) + " is not in 1…" +
                       std::to_string(kMaxHeadSize));
        }
    }
    if (args.n_head_kv < 1 || args.n_head < 1 || args.n_head % args.n_head_kv != 0) {
        return bad(std::to_string(args.n_head) + " query heads are no multiple of " + std::to_string(args.n_head_kv) +
                   " KV heads");
    }
    for (const auto& [type, decode, d, name] :
         {std::tuple{args.k_type, args.k_decode, args.d_k, "key"}, {args.v_type, args.v_decode, args.d_v, "value"}}) {
        if (type == DataType::kOther) {
            if (!decode) return bad(std::string(name) + " type has no decoder");
        } else if (const DataTypeInfo& info = data_type_info(type); d % info.block_elements != 0) {
            return bad(std::string(name) + " size " + std::to_string(d) + " with " + info.name + " is no multiple of " +
                       std::to_string(info.block_elements));
        }
    }
    return Status::ok();
}

Status attention(const AttentionArgs& args, int /*n_threads*/) {
    if (Status status = reference::check_attention(args); !status.is_ok()) return status;
    for (int64_t stream = 0; stream < args.n_stream; ++stream) {
        for (int64_t token = 0; token < args.n_tokens; ++token) {
            for (int64_t head = 0; head < args.n_head; ++head) attend_row(args, stream, token, head);
        }
    }
    return Status::ok();
}

}  // namespace atlas::kernels::reference
