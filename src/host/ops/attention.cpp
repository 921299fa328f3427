#include "host/ops/attention.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <iterator>
#include <string>
#include <string_view>
#include <tuple>

#include "host/buffers/owner_buffer.h"

namespace atlas::host {
namespace {

// Words of op_params: scale, ALiBi's largest bias, softcap (f32), then these (i32).
constexpr int kPrecision = 3;
constexpr int kMostVisible = 4;
constexpr int kPrecisions[] = {GGML_PREC_UNDEFINED, GGML_PREC_F32, GGML_PREC_BF16,
                               GGML_PREC_F16,       GGML_PREC_Q8,  GGML_PREC_Q4};

DataType native_type(ggml_type type) {
    switch (type) {
        case GGML_TYPE_F32:
            return DataType::kF32;
        case GGML_TYPE_F16:
            return DataType::kF16;
        case GGML_TYPE_BF16:
            return DataType::kBF16;
        case GGML_TYPE_Q8_0:
            return DataType::kQ8_0;
        case GGML_TYPE_Q4_0:
            return DataType::kQ4_0;
        case GGML_TYPE_Q4_1:
            return DataType::kQ4_1;
        case GGML_TYPE_Q5_0:
            return DataType::kQ5_0;
        case GGML_TYPE_Q5_1:
            return DataType::kQ5_1;
        case GGML_TYPE_IQ4_NL:
            return DataType::kIQ4_NL;
        default:
            return DataType::kOther;
    }
}

RowDecoder other_decoder(ggml_type type) {
    return native_type(type) == DataType::kOther ? ggml_get_type_traits(type)->to_float : nullptr;
}

float op_param(const ggml_tensor* op, int index) {
    float value;
    std::memcpy(&value, &op->op_params[index], sizeof value);
    return value;
}

/** Everything but data: enough for check_attention. */
kernels::AttentionArgs arguments_of(const ggml_tensor* op) {
    const ggml_tensor* q = op->src[0];
    const ggml_tensor* k = op->src[1];
    const ggml_tensor* v = op->src[2];
    kernels::AttentionArgs args;
    args.d_k = q->ne[0];
    args.d_v = v->ne[0];
    args.n_tokens = q->ne[1];
    args.n_head = q->ne[2];
    args.n_head_kv = k->ne[2];
    args.n_stream = q->ne[3];
    args.k_type = native_type(k->type);
    args.v_type = native_type(v->type);
    args.k_decode = other_decoder(k->type);
    args.v_decode = other_decoder(v->type);
    args.k_stride = static_cast<int64_t>(k->nb[1]);
    args.v_stride = static_cast<int64_t>(v->nb[1]);
    args.q_token_stride = static_cast<int64_t>(q->nb[1]);
    args.q_head_stride = static_cast<int64_t>(q->nb[2]);
    args.q_stream_stride = static_cast<int64_t>(q->nb[3]);
    args.out_head_stride = static_cast<int64_t>(op->nb[1]);
    args.out_token_stride = static_cast<int64_t>(op->nb[2]);
    args.out_stream_stride = static_cast<int64_t>(op->nb[3]);
    args.scale = op_param(op, 0);
    args.max_bias = op_param(op, 1);
    args.softcap = op_param(op, 2);
    return args;
}

kernels::Mask mask_of(const ggml_tensor* tensor) {
    kernels::Mask mask;
    mask.data = static_cast<const uint16_t*>(tensor->data);
    mask.token_stride = static_cast<int64_t>(tensor->nb[1] / 2);
    mask.head_stride = static_cast<int64_t>(tensor->nb[2] / 2);
    mask.stream_stride = static_cast<int64_t>(tensor->nb[3] / 2);
    mask.n_heads = tensor->ne[2];
    mask.n_streams = tensor->ne[3];
    return mask;
}

/** Layer number at the end of the cache tensor's name (cache_k_l12); 0 without one. */
int layer_of(const ggml_tensor* cache) {
    while (cache->view_src) cache = cache->view_src;
    const std::string_view name(cache->name);
    const size_t begin = name.find_last_not_of("0123456789");
    int layer = 0;
    if (begin != std::string_view::npos) std::from_chars(name.data() + begin + 1, name.data() + name.size(), layer);
    return layer;
}

/** Walks the keys of one (stream, KV head) of K or V in pieces that are evenly spaced in memory. */
class Rows {
public:
    Rows(const ggml_tensor* tensor, int64_t stream, int64_t head) : tensor_(tensor), place_(placement_of(tensor)) {
        start_ = static_cast<size_t>(stream) * tensor->nb[3] + static_cast<size_t>(head) * tensor->nb[2];
    }

    /** Row of key `key`, and in `count` how many keys from it on lie evenly. */
    const std::byte* at(int64_t key, int64_t* count) const {
        const size_t offset = start_ + static_cast<size_t>(key) * tensor_->nb[1];
        const int64_t remaining = tensor_->ne[1] - key;
        if (!place_.pages) {
            *count = remaining;
            return static_cast<const std::byte*>(tensor_->data) + offset;
        }
        const size_t page_bytes = place_.pages->page_bytes();
        const size_t inside = (place_.offset + offset) % page_bytes;
        *count = std::min<int64_t>(remaining, static_cast<int64_t>((page_bytes - inside - 1) / tensor_->nb[1]) + 1);
        return place_.pages->resident(static_cast<int64_t>((place_.offset + offset) / page_bytes)) + inside;
    }

    /** Whether all heads of a cell lie in one row of the pages, so that they share a run list. */
    bool heads_share_rows() const {
        if (!place_.pages) return true;
        const size_t row = place_.pages->row_bytes();
        const size_t last_head =
            static_cast<size_t>(tensor_->ne[2] - 1) * tensor_->nb[2] + ggml_row_size(tensor_->type, tensor_->ne[0]);
        return tensor_->nb[1] % row == 0 && (place_.offset + start_) % row + last_head <= row;
    }

private:
    const ggml_tensor* tensor_;
    Placement place_;
    size_t start_;
};

}  // namespace

Status check_flash_attention(const ggml_tensor* op) {
    const auto no = [](const std::string& what) { return Status::unsupported(what); };
    const auto type = [](const ggml_tensor* tensor) { return std::string(ggml_type_name(tensor->type)); };
    const ggml_tensor* q = op->src[0];
    const ggml_tensor* k = op->src[1];
    const ggml_tensor* v = op->src[2];
    const ggml_tensor* mask = op->src[3];
    const ggml_tensor* sinks = op->src[4];
    if (q->type != GGML_TYPE_F32 || op->type != GGML_TYPE_F32)
        return no("queries of " + type(q) + ", result of " + type(op));
    if (q->nb[0] != sizeof(float) || k->nb[0] != ggml_type_size(k->type) || v->nb[0] != ggml_type_size(v->type))
        return no("rows that are not contiguous");
    if (mask && (mask->type != GGML_TYPE_F16 || mask->nb[0] != 2)) return no("a mask of " + type(mask));
    if (sinks && sinks->type != GGML_TYPE_F32) return no("sinks of " + type(sinks));
    // K and V may have fewer streams than q only if they are broadcast, which llama.cpp never asks for.
    if (k->ne[3] != q->ne[3] || v->ne[3] != q->ne[3] || v->ne[2] != k->ne[2])
        return no("keys and values that are broadcast");
    // Sums are made in f32, which is enough for every precision that a host may ask for at least.
    if (std::find(std::begin(kPrecisions), std::end(kPrecisions), op->op_params[kPrecision]) == std::end(kPrecisions))
        return no("precision " + std::to_string(op->op_params[kPrecision]));
    // A bound on the visible keys of a query. What the mask hides is skipped without it.
    if (op->op_params[kMostVisible] < 0)
        return no(std::to_string(op->op_params[kMostVisible]) + " visible keys at most");
    const kernels::AttentionArgs args = arguments_of(op);
    for (const auto& [known, decode, tensor] :
         {std::tuple{args.k_type, args.k_decode, k}, {args.v_type, args.v_decode, v}}) {
        if (known == DataType::kOther && decode == nullptr) return no("keys or values of " + type(tensor));
        if (tensor->ne[0] % ggml_blck_size(tensor->type) != 0)
            return no("heads of " + std::to_string(tensor->ne[0]) + " in " + type(tensor));
    }
    return kernels::check_attention(args);
}

const FlashAttention::RunLists& FlashAttention::runs_of(const ggml_tensor* k, const ggml_tensor* v) {
    const Placement k_place = placement_of(k);
    const Placement v_place = placement_of(v);
    if (!k_place.pages || !v_place.pages) {
        build_runs(k, v, &other_);
        return other_;
    }
    const RunsKey key{k_place.pages->layout(),
                      v_place.pages->layout(),
                      k_place.offset,
                      v_place.offset,
                      {k->ne[0], k->ne[1], k->ne[2], k->ne[3], v->ne[0]},
                      {k->nb[1], k->nb[2], k->nb[3], v->nb[1], v->nb[2], v->nb[3]}};
    RunLists& lists = kept_[{k_place.pages->id(), v_place.pages->id()}];
    if (lists.heads.empty() || !(lists.key == key)) {
        lists.heads.clear();
        build_runs(k, v, &lists);
        lists.key = key;
    }
    return lists;
}

void FlashAttention::build_runs(const ggml_tensor* k, const ggml_tensor* v, RunLists* out) {
    const int64_t n_keys = k->ne[1];
    const int64_t n_heads = k->ne[2];
    struct Range {
        size_t begin, end;
        int64_t k_offset, v_offset;
    };
    std::vector<Range> ranges;
    out->runs.clear();
    for (int64_t stream = 0; stream < k->ne[3]; ++stream) {
        const bool shared = Rows(k, stream, 0).heads_share_rows() && Rows(v, stream, 0).heads_share_rows();
        for (int64_t head = 0; head < n_heads; ++head) {
            if (shared && head > 0) {
                Range range = ranges.back();
                range.k_offset += static_cast<int64_t>(k->nb[2]);
                range.v_offset += static_cast<int64_t>(v->nb[2]);
                ranges.push_back(range);
                continue;
            }
            const Rows k_rows(k, stream, head);
            const Rows v_rows(v, stream, head);
            const size_t begin = out->runs.size();
            for (int64_t key = 0; key < n_keys;) {
                int64_t k_count = 0;
                int64_t v_count = 0;
                const std::byte* k_row = k_rows.at(key, &k_count);
                const std::byte* v_row = v_rows.at(key, &v_count);
                const int64_t count = std::min(k_count, v_count);
                out->runs.push_back({k_row, v_row, static_cast<int32_t>(key), static_cast<int32_t>(count)});
                key += count;
            }
            ranges.push_back({begin, out->runs.size(), 0, 0});
        }
    }
    out->heads.clear();
    for (const Range& range : ranges) {
        out->heads.push_back(
            {{out->runs.data() + range.begin, range.end - range.begin}, range.k_offset, range.v_offset});
    }
}

bool FlashAttention::find_cache(const ggml_tensor* k, const ggml_tensor* v, runtime::CacheView* out) {
    const Placement k_place = placement_of(k);
    const Placement v_place = placement_of(v);
    if (!k_place.pages || !v_place.pages || k->nb[1] != k_place.pages->row_bytes() ||
        v->nb[1] != v_place.pages->row_bytes())
        return false;
    base_pages_.clear();
    for (int64_t stream = 0; stream < k->ne[3]; ++stream) {
        const size_t k_row = (k_place.offset + static_cast<size_t>(stream) * k->nb[3]) / k->nb[1];
        const size_t v_row = (v_place.offset + static_cast<size_t>(stream) * v->nb[3]) / v->nb[1];
        if (k_row != v_row || k_row % static_cast<size_t>(kv::kPageRows) != 0) return false;
        base_pages_.push_back(static_cast<int64_t>(k_row) / kv::kPageRows);
    }
    *out = {k_place.pages, v_place.pages, base_pages_.data(), layer_of(k)};
    return true;
}

Status FlashAttention::run(const ggml_tensor* op, int n_threads) {
    kernels::AttentionArgs args = arguments_of(op);
    const ggml_tensor* k = op->src[1];
    const ggml_tensor* v = op->src[2];
    args.runs = runs_of(k, v).heads.data();
    args.q = static_cast<const float*>(op->src[0]->data);
    args.out = static_cast<float*>(op->data);
    if (op->src[3]) args.mask = mask_of(op->src[3]);
    if (op->src[4]) args.sinks = static_cast<const float*>(op->src[4]->data);
    runtime::CacheView cache;
    return session_.attend(args, k->ne[1], find_cache(k, v, &cache) ? &cache : nullptr, n_threads);
}

}  // namespace atlas::host
