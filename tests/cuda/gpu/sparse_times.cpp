#include "sparse_times.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "kernels/codes.h"
#include "kernels/cuda/codes.h"
#include "kernels/cuda/sparse.h"
#include "measure.h"

namespace atlas::kernels::cuda {
void measure_sparse(Device& device, const SparseShape& shape, int repetitions) {
    const int64_t row = int64_t{shape.d} * 2;
    const int64_t pages = std::max(1, shape.keys / kPageKeys);
    const int64_t page_bytes = kPageKeys * row;
    const CodeShape codes_shape(shape.d, shape.d);
    std::mt19937 random(1);
    // The rows of a few pages, over and over: a host takes long to draw all. Each page has its own memory and codes nonetheless.
    std::vector<uint16_t> rows(static_cast<size_t>(shape.heads_kv * pages * 2 * page_bytes) / 2);
    for (size_t i = 0; i < rows.size(); ++i) {
        rows[i] = i < 65536 ? static_cast<uint16_t>(0x3400 | (random() & 0x87FF)) : rows[i - 65521];
    }
    const Buffer cache = upload(device, rows);
    Buffer codes, broken, out, lse;
    need(device.allocate(static_cast<size_t>(shape.heads_kv * pages) * codes_shape.bytes, &codes));
    std::vector<FarPage> table;
    std::vector<FarList> lists;
    std::vector<PageList> near_lists;
    for (int64_t p = 0; p < pages; ++p) {
        const uint64_t at = cache.address() + static_cast<uint64_t>(p * shape.heads_kv * 2 * page_bytes);
        table.push_back({reinterpret_cast<const unsigned char*>(at),
                         reinterpret_cast<const unsigned char*>(at + static_cast<uint64_t>(page_bytes)),
                         codes.as<unsigned char>() + static_cast<size_t>(p * shape.heads_kv) * codes_shape.bytes,
                         p * kPageKeys});
    }
    for (int64_t head = 0; head < shape.heads_kv; ++head) {
        lists.push_back({0, static_cast<uint32_t>(pages), head * 2 * page_bytes, head * 2 * page_bytes,
                         head * static_cast<int64_t>(codes_shape.bytes)});
        near_lists.push_back({0, 2, head * 2 * page_bytes, head * 2 * page_bytes});
    }
    // A window of the first two pages: what it holds does not matter here.
    const std::vector<Page> near_pages{{table[0].k, table[0].v, ~uint64_t{0}, 0},
                                       {table.back().k, table.back().v, ~uint64_t{0}, kPageKeys}};
    std::vector<float> queries(static_cast<size_t>(shape.heads * shape.d));
    for (float& x : queries) x = std::normal_distribution<float>()(random);
    std::vector<float> signs(static_cast<size_t>(2 * codes_shape.d));
    for (float& x : signs) x = random() % 2 ? 1.0f : -1.0f;
    const Buffer far_table = upload(device, table);
    const Buffer far_lists = upload(device, lists);
    const Buffer near_table = upload(device, near_pages);
    const Buffer near_list_table = upload(device, near_lists);
    const Buffer q = upload(device, queries);
    const Buffer sign_table = upload(device, signs);
    need(device.allocate(queries.size() * sizeof(float), &out));
    need(device.allocate(static_cast<size_t>(shape.heads_kv * pages) * sizeof(unsigned), &broken));

    EncodeArguments e{};
    e.pages = far_table.as<FarPage>();
    e.k_head_stride = e.v_head_stride = 2 * page_bytes;
    e.code_head_stride = static_cast<int64_t>(codes_shape.bytes);
    e.k_stride = e.v_stride = row;
    e.signs = sign_table.as<float>();
    e.broken = broken.as<unsigned>();
    e.layout = layout_of(codes_shape);
    e.k_type = e.v_type = RowType::kF16;
    e.d_k = shape.d;
    const double code_bytes = static_cast<double>(shape.heads_kv * pages) * static_cast<double>(codes_shape.bytes);
    const double cache_bytes = static_cast<double>(shape.heads_kv * pages * 2 * page_bytes);
    const std::vector<double> encoding =
        times_of(device, repetitions, [&] { need(encode_pages(device, e, pages, shape.heads_kv)); });
    print(shape.encode_name, "encode_pages", 1, cache_bytes + code_bytes, 0, encoding, true);

    SparseCall call;
    AttentionArguments& a = call.near;
    a.pages = near_table.as<Page>();
    a.lists = near_list_table.as<PageList>();
    a.q = q.as<float>();
    a.out = out.as<float>();
    a.q_head_stride = a.out_head_stride = shape.d;
    a.q_token_stride = a.out_token_stride = a.q_stream_stride = a.out_stream_stride = int64_t{shape.d} * shape.heads;
    a.k_stride = a.v_stride = row;
    a.d_k = a.d_v = shape.d;
    a.n_tokens = a.tile_tokens = a.n_stream = a.tiles = a.mask_heads = a.mask_streams = 1;
    a.n_head = shape.heads;
    a.n_head_kv = shape.heads_kv;
    a.scale = 1.0f / std::sqrt(static_cast<float>(shape.d));
    call.near_pages = 2;
    call.pages = far_table.as<FarPage>();
    call.lists = far_lists.as<FarList>();
    call.far_pages = pages;
    call.signs = sign_table.as<float>();
    // So many keys whatever they hold, so that what is read is known.
    call.budget = {shape.selected, shape.selected, 1.0f, true};
    SparseAttention sparse(device);
    const std::vector<double> times = times_of(device, repetitions, [&] { need(sparse.run(call)); });
    std::vector<float> result(queries.size());
    need(device.download(result.data(), out, result.size() * sizeof(float)));
    need(device.wait());
    // Codes once, those of pages with selected keys three times; near and selected keys.
    const double read = static_cast<double>(shape.heads_kv) * (static_cast<double>(shape.selected) + 2 * kPageKeys) *
                        static_cast<double>(2 * row);
    const double again = 2.0 * static_cast<double>(shape.heads_kv) *
                         static_cast<double>(std::min<int64_t>(pages, shape.selected)) *
                         static_cast<double>(codes_shape.bytes);
    print(shape.name, "sparse", 6, code_bytes + again + read,
          2.0 * shape.heads * static_cast<double>(shape.keys) * shape.d, times, all_finite(result));
}

}  // namespace atlas::kernels::cuda
