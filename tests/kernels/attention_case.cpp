#include "attention_case.h"

#include <algorithm>
#include <cmath>
#include <sstream>

#include "kernels/reference/reference.h"

namespace atlas::kernels::test {
namespace {

size_t stored_bytes(DataType type, int64_t n) {
    return type == DataType::kOther ? static_cast<size_t>(n) * sizeof(double) : row_bytes(type, n);
}

/** The "other" type of these tests: float64 rows. */
void decode_double(const void* src, float* dst, int64_t n) {
    for (int64_t i = 0; i < n; ++i) dst[i] = static_cast<float>(static_cast<const double*>(src)[i]);
}

}  // namespace

Case::Case(const CaseSpec& spec) : spec_(spec) {
    std::mt19937_64 rng(spec.seed);
    k_ = encode(spec.k_type, spec.d_k, spec.k_type == DataType::kOther ? 0 : spec.misalign, rng);
    v_ = encode(spec.v_type, spec.d_v, spec.v_type == DataType::kOther ? 0 : spec.misalign, rng);
    std::normal_distribution<float> normal(0.0f, 1.5f);
    q_.resize(static_cast<size_t>(spec.n_stream * spec.n_head * spec.n_tokens * spec.d_k));
    for (float& x : q_) x = normal(rng);
    sinks_.resize(static_cast<size_t>(spec.n_head));
    for (float& x : sinks_) x = normal(rng);
    out.assign(static_cast<size_t>(spec.n_stream * spec.n_tokens * spec.n_head * spec.d_v), 99.0f);
    lse.assign(static_cast<size_t>(spec.n_stream * spec.n_tokens * spec.n_head), 99.0f);

    args.d_k = spec.d_k;
    args.d_v = spec.d_v;
    args.n_tokens = spec.n_tokens;
    args.n_head = spec.n_head;
    args.n_head_kv = spec.n_head_kv;
    args.n_stream = spec.n_stream;
    args.k_type = spec.k_type;
    args.v_type = spec.v_type;
    args.k_decode = spec.k_type == DataType::kOther ? decode_double : nullptr;
    args.v_decode = spec.v_type == DataType::kOther ? decode_double : nullptr;
    args.k_stride = static_cast<int64_t>(stored_bytes(spec.k_type, spec.d_k)) * spec.n_head_kv;
    args.v_stride = static_cast<int64_t>(stored_bytes(spec.v_type, spec.d_v)) * spec.n_head_kv;
    const auto f = static_cast<int64_t>(sizeof(float));
    args.q = q_.data();
    args.q_token_stride = spec.d_k * f;
    args.q_head_stride = spec.d_k * spec.n_tokens * f;
    args.q_stream_stride = args.q_head_stride * spec.n_head;
    args.out = out.data();
    args.out_head_stride = spec.d_v * f;
    args.out_token_stride = spec.d_v * spec.n_head * f;
    args.out_stream_stride = args.out_token_stride * spec.n_tokens;
    args.lse = lse.data();
    args.tokens_per_tile = spec.tokens_per_tile;
    args.scale = 1.0f / std::sqrt(static_cast<float>(spec.d_k));
    args.max_bias = spec.max_bias;
    args.softcap = spec.softcap;
    args.sinks = spec.sinks ? sinks_.data() : nullptr;
    make_runs();
    make_mask(rng);
}

std::vector<std::byte> Case::encode(DataType type, int64_t d, size_t misalign, std::mt19937_64& rng) const {
    const int64_t rows = spec_.n_stream * spec_.n_keys * spec_.n_head_kv;
    const size_t bytes = stored_bytes(type, d);
    std::vector<std::byte> data(static_cast<size_t>(rows) * bytes + misalign);
    std::normal_distribution<float> normal;
    std::vector<float> row(static_cast<size_t>(d));
    for (int64_t r = 0; r < rows; ++r) {
        for (float& x : row) x = normal(rng);
        std::byte* to = data.data() + misalign + static_cast<size_t>(r) * bytes;
        if (type == DataType::kOther) {
            std::copy(row.begin(), row.end(), reinterpret_cast<double*>(to));
        } else {
            reference::row_encoder(type)(row.data(), to, d);
        }
    }
    return data;
}

void Case::make_runs() {
    const int64_t per_run = spec_.run_keys > 0 ? spec_.run_keys : spec_.n_keys;
    const int64_t tile = std::min(spec_.tokens_per_tile, spec_.n_tokens);
    const int64_t lists = (spec_.n_tokens + tile - 1) / tile;
    const size_t k_base = args.k_type == DataType::kOther ? 0 : spec_.misalign;
    const size_t v_base = args.v_type == DataType::kOther ? 0 : spec_.misalign;
    std::vector<size_t> begins;
    for (int64_t stream = 0; stream < spec_.n_stream; ++stream) {
        begins.push_back(runs_.size());
        for (int64_t key = 0; key < spec_.n_keys; key += per_run) {
            const int64_t cell = stream * spec_.n_keys + key;
            runs_.push_back({k_.data() + k_base + cell * args.k_stride, v_.data() + v_base + cell * args.v_stride,
                             static_cast<int32_t>(key), static_cast<int32_t>(std::min(per_run, spec_.n_keys - key))});
        }
    }
    begins.push_back(runs_.size());
    for (int64_t stream = 0; stream < spec_.n_stream; ++stream) {
        const auto s = static_cast<size_t>(stream);
        for (int64_t head = 0; head < spec_.n_head_kv; ++head) {
            for (int64_t list = 0; list < lists; ++list) {
                heads_.push_back({{runs_.data() + begins[s], begins[s + 1] - begins[s]},
                                  head * static_cast<int64_t>(stored_bytes(args.k_type, spec_.d_k)),
                                  head * static_cast<int64_t>(stored_bytes(args.v_type, spec_.d_v))});
            }
        }
    }
    args.runs = heads_.data();
}

void Case::make_mask(std::mt19937_64& rng) {
    if (spec_.mask == MaskKind::kNone) return;
    constexpr uint16_t kHidden = 0xFC00;
    mask_.resize(static_cast<size_t>(spec_.n_stream * spec_.n_tokens * spec_.n_keys));
    std::bernoulli_distribution coin(0.3);
    size_t i = 0;
    for (int64_t stream = 0; stream < spec_.n_stream; ++stream) {
        for (int64_t token = 0; token < spec_.n_tokens; ++token) {
            // Sequences of different lengths per stream, so that blocks are visible, hidden and mixed.
            const int64_t last = spec_.n_keys - spec_.n_tokens + token - stream * 7;
            for (int64_t key = 0; key < spec_.n_keys; ++key, ++i) {
                const float bias = spec_.max_bias > 0.0f ? -static_cast<float>(std::abs(last - key)) : 0.0f;
                const bool hidden = spec_.mask == MaskKind::kAllHidden ||
                                    (spec_.mask == MaskKind::kCausal && key > last) ||
                                    (spec_.mask == MaskKind::kRandom && coin(rng));
                mask_[i] = hidden ? kHidden : f32_to_f16(bias);
            }
        }
    }
    args.mask.data = mask_.data();
    args.mask.token_stride = spec_.n_keys;
    args.mask.head_stride = spec_.n_keys * spec_.n_tokens;
    args.mask.stream_stride = spec_.n_keys * spec_.n_tokens;
    args.mask.n_streams = spec_.n_stream;
    args.mask.summary_blocks = (spec_.n_keys + kBlockKeys - 1) / kBlockKeys;
    if (!spec_.summary) return;
    summary_.resize(static_cast<size_t>(spec_.n_stream * spec_.n_tokens * args.mask.summary_blocks));
    summarize_mask(args.mask, spec_.n_tokens, spec_.n_keys, summary_.data(), 1);
    args.mask.summary = summary_.data();
}

double row_error(const std::vector<float>& a, const std::vector<float>& b, int64_t row, double floor) {
    double worst = 0;
    for (size_t begin = 0; begin < b.size(); begin += static_cast<size_t>(row)) {
        const size_t end = std::min(b.size(), begin + static_cast<size_t>(row));
        double largest = floor;
        double difference = 0;
        for (size_t i = begin; i < end; ++i) {
            if (!std::isfinite(b[i])) {
                if (a[i] != b[i]) return HUGE_VAL;
                continue;
            }
            if (!std::isfinite(a[i])) return HUGE_VAL;
            largest = std::max(largest, std::fabs(static_cast<double>(b[i])));
            difference = std::max(difference, std::fabs(static_cast<double>(a[i]) - b[i]));
        }
        worst = std::max(worst, difference / largest);
    }
    return worst;
}

double output_error(const Case& actual, const Case& expected) {
    return row_error(actual.out, expected.out, expected.args.d_v, kOutputFloor);
}

double lse_error(const Case& actual, const Case& expected) { return row_error(actual.lse, expected.lse, 1, 1.0); }

std::string describe(const CaseSpec& s) {
    const auto name = [](DataType type) { return type == DataType::kOther ? "other" : data_type_info(type).name; };
    std::ostringstream text;
    text << "d " << s.d_k << "/" << s.d_v << ", " << s.n_tokens << " tokens, heads " << s.n_head << "/" << s.n_head_kv
         << ", " << s.n_stream << " streams, " << s.n_keys << " keys, " << name(s.k_type) << "/" << name(s.v_type)
         << ", mask " << static_cast<int>(s.mask) << ", runs of " << s.run_keys << ", seed " << s.seed;
    return text.str();
}

}  // namespace atlas::kernels::test
