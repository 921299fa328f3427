#include "host/ops/attention.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>
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

attention::KvRows rows_of(const ggml_tensor* tensor) {
    const Placement place = placement_of(tensor);
    attention::KvRows rows;
    rows.pages = place.pages;
    rows.offset = place.offset;
    rows.memory = place.pages ? nullptr : static_cast<const std::byte*>(tensor->data);
    rows.head_stride = static_cast<int64_t>(tensor->nb[2]);
    rows.stream_stride = static_cast<int64_t>(tensor->nb[3]);
    rows.key_stride = static_cast<int64_t>(tensor->nb[1]);
    rows.row_bytes = static_cast<int64_t>(ggml_row_size(tensor->type, tensor->ne[0]));
    return rows;
}

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

Status FlashAttention::run(const ggml_tensor* op, int n_threads) {
    const ggml_tensor* k = op->src[1];
    const ggml_tensor* v = op->src[2];
    attention::AttentionCall call;
    call.args = arguments_of(op);
    call.args.q = static_cast<const float*>(op->src[0]->data);
    call.args.out = static_cast<float*>(op->data);
    if (op->src[3]) call.args.mask = mask_of(op->src[3]);
    if (op->src[4]) call.args.sinks = static_cast<const float*>(op->src[4]->data);
    call.n_keys = k->ne[1];
    call.layer = layer_of(k);
    call.k = rows_of(k);
    call.v = rows_of(v);
    return session_.attend(std::move(call), n_threads);
}

}  // namespace atlas::host
