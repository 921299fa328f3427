#pragma once

#include "kernels/cuda/arguments.h"
#include "kernels/cuda/simt.h"

// Index arithmetic of attention: which list, which rows, what a mask says. The only file that multiplies strides.

namespace atlas::kernels::cuda {

inline constexpr float kLog2E = 1.4426950408889634f;
inline constexpr float kLn2 = 0.6931471805599453f;

SIMT_DEVICE float minus_infinity() { return simt::bits_to_float(0xFF800000u); }
SIMT_DEVICE bool is_finite(float x) { return (simt::float_to_bits(x) & 0x7F800000u) != 0x7F800000u; }

/** The list of a block and the rows of it. */
struct ListPlace {
    int list, stream, head_kv, first_token, tokens, group, rows;
};

/** List number `list` of a launch. */
SIMT_DEVICE ListPlace place_of(const AttentionArguments& a, int list) {
    ListPlace p;
    p.list = list;
    p.first_token = list % a.tiles * a.tile_tokens;
    p.head_kv = list / a.tiles % a.n_head_kv;
    p.stream = list / a.tiles / a.n_head_kv;
    p.tokens = simt::smaller(a.tile_tokens, a.n_tokens - p.first_token);
    p.group = a.n_head / a.n_head_kv;
    p.rows = p.tokens * p.group;
    return p;
}

/** A token and a query head. */
struct RowPlace {
    int stream, token, head;
};
SIMT_DEVICE RowPlace row_of(const ListPlace& p, int row) {
    return {p.stream, p.first_token + row / p.group, p.head_kv * p.group + row % p.group};
}

SIMT_DEVICE const float* query_of(const AttentionArguments& a, const RowPlace& r) {
    return a.q + r.stream * a.q_stream_stride + r.token * a.q_token_stride + r.head * a.q_head_stride;
}
SIMT_DEVICE float* output_of(const AttentionArguments& a, const RowPlace& r) {
    return a.out + r.stream * a.out_stream_stride + r.token * a.out_token_stride + r.head * a.out_head_stride;
}
/** Number of a row in lse and partial. */
SIMT_DEVICE int64_t index_of(const AttentionArguments& a, const RowPlace& r) {
    return (static_cast<int64_t>(r.stream) * a.n_tokens + r.token) * a.n_head + r.head;
}
/** The mask's row, or nullptr. */
SIMT_DEVICE const uint16_t* mask_of(const AttentionArguments& a, const RowPlace& r) {
    if (!a.mask) return nullptr;
    return a.mask + r.stream % a.mask_streams * a.mask_stream_stride + r.head % a.mask_heads * a.mask_head_stride +
           r.token * a.mask_token_stride;
}
SIMT_DEVICE float slope_of(const AttentionArguments& a, const RowPlace& r) {
    return a.slopes ? simt::read(a.slopes + r.head) : 1.0f;
}

/** Pages [begin, end) of split `split` of a list. */
struct PageRange {
    uint32_t begin, end;
};
SIMT_DEVICE PageRange pages_of(const PageList& list, int split, int splits) {
    const uint32_t pages = list.end - list.begin;
    const uint32_t per = (pages + static_cast<uint32_t>(splits) - 1) / static_cast<uint32_t>(splits);
    const uint32_t begin = list.begin + simt::smaller(pages, per * static_cast<uint32_t>(split));
    return {begin, simt::smaller(list.end, begin + per)};
}

SIMT_DEVICE Page read_page(const Page* from) {
    const uint4 addresses = simt::read(reinterpret_cast<const uint4*>(from));
    const uint4 rest = simt::read(reinterpret_cast<const uint4*>(from) + 1);
    const auto wide = [](uint32_t low, uint32_t high) { return low | static_cast<uint64_t>(high) << 32; };
    Page page;
    page.k = reinterpret_cast<const unsigned char*>(wide(addresses.x, addresses.y));
    page.v = reinterpret_cast<const unsigned char*>(wide(addresses.z, addresses.w));
    page.cells = wide(rest.x, rest.y);
    page.key = static_cast<int64_t>(wide(rest.z, rest.w));
    return page;
}
SIMT_DEVICE PageList read_list(const PageList* from) {
    PageList list;
    list.begin = simt::read(&from->begin);
    list.end = simt::read(&from->end);
    list.k_offset = simt::read(&from->k_offset);
    list.v_offset = simt::read(&from->v_offset);
    return list;
}

/** A product of a query and a key as a logit in units of ln 2, without its bias. */
SIMT_DEVICE float logit_of(const AttentionArguments& a, float product) {
    const float scaled = product * a.scale;
    if (a.softcap == 0.0f) return scaled * kLog2E;
    return a.softcap * simt::hyperbolic_tangent(scaled / a.softcap) * kLog2E;
}

}  // namespace atlas::kernels::cuda
