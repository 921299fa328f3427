#include <cmath>
#include <limits>
#include <vector>

#include "kernels/attention.h"
#include "kernels/row_codec.h"

namespace atlas::kernels {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

std::vector<double> decode(DataType type, RowDecoder other, const std::byte* row, int64_t d) {
    std::vector<float> values(static_cast<size_t>(d));
    (type == DataType::kOther ? other : row_decoder(type))(row, values.data(), d);
    return {values.begin(), values.end()};
}

double logit(const AttentionArgs& args, const float* q, const std::vector<double>& k, double bias) {
    double dot = 0;
    for (size_t i = 0; i < k.size(); ++i) dot += static_cast<double>(q[i]) * k[i];
    dot *= args.scale;
    if (args.softcap != 0.0f) dot = args.softcap * std::tanh(dot / args.softcap);
    return dot + bias;
}

void attend(const AttentionArgs& args, int64_t stream, int64_t token, int64_t head, const HeadRuns& list) {
    const auto* q =
        reinterpret_cast<const float*>(reinterpret_cast<const std::byte*>(args.q) + stream * args.q_stream_stride +
                                       token * args.q_token_stride + head * args.q_head_stride);
    const Mask& mask = args.mask;
    const uint16_t* mask_row = mask.data ? mask.data + (stream % mask.n_streams) * mask.stream_stride +
                                               (head % mask.n_heads) * mask.head_stride + token * mask.token_stride
                                         : nullptr;
    const double slope = alibi_slope(args.max_bias, head, args.n_head);
    std::vector<double> logits;
    std::vector<const std::byte*> rows;
    double max = args.sinks ? static_cast<double>(args.sinks[head]) : kMinusInfinity;
    for (const Run& run : list.runs) {
        for (int64_t j = 0; j < run.count; ++j) {
            const double bias = mask_row ? static_cast<double>(f16_to_f32(mask_row[run.key + j])) : 0.0;
            if (bias == kMinusInfinity) continue;
            const auto k = decode(args.k_type, args.k_decode, run.k + list.k_offset + j * args.k_stride, args.d_k);
            logits.push_back(logit(args, q, k, slope * bias));
            rows.push_back(run.v + list.v_offset + j * args.v_stride);
            max = std::max(max, logits.back());
        }
    }
    std::vector<double> sum_of_values(static_cast<size_t>(args.d_v));
    double sum = args.sinks ? std::exp(args.sinks[head] - max) : 0.0;
    for (size_t j = 0; j < rows.size(); ++j) {
        const double weight = std::exp(logits[j] - max);
        const auto v = decode(args.v_type, args.v_decode, rows[j], args.d_v);
        for (size_t i = 0; i < v.size(); ++i) sum_of_values[i] += weight * v[i];
        sum += weight;
    }
    auto* out = reinterpret_cast<float*>(reinterpret_cast<std::byte*>(args.out) + stream * args.out_stream_stride +
                                         token * args.out_token_stride + head * args.out_head_stride);
    const bool nothing = max == kMinusInfinity;
    for (int64_t i = 0; i < args.d_v; ++i)
        out[i] = nothing ? 0.0f : static_cast<float>(sum_of_values[static_cast<size_t>(i)] / sum);
    if (args.lse) {
        args.lse[(stream * args.n_tokens + token) * args.n_head + head] =
            static_cast<float>(nothing ? kMinusInfinity : max + std::log(sum));
    }
}

}  // namespace

Status attention_reference(const AttentionArgs& args) {
    if (Status status = check_attention(args); !status.is_ok()) return status;
    const int64_t per_list = std::min(args.tokens_per_tile, args.n_tokens);
    const int64_t lists = per_list > 0 ? (args.n_tokens + per_list - 1) / per_list : 0;
    const int64_t group = args.n_head / args.n_head_kv;
    for (int64_t stream = 0; stream < args.n_stream; ++stream) {
        for (int64_t token = 0; token < args.n_tokens; ++token) {
            for (int64_t head = 0; head < args.n_head; ++head) {
                attend(args, stream, token, head,
                       args.runs[(stream * args.n_head_kv + head / group) * lists + token / per_list]);
            }
        }
    }
    return Status::ok();
}

}  // namespace atlas::kernels
