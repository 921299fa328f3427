// Times of the kernels on a device, over keys and weights that lie there: cuda_times [REPETITIONS [KEYS]]. A line of JSON per shape: bytes and products that it must take, the
// median and the range of its time. scripts/gpu_check.sh compares them with predictions.json.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "kernels/cuda/device.h"
#include "kernels/cuda/plan.h"
#include "kernels/cuda/table.h"
#include "measure.h"
#include "product_times.h"
#include "sparse_times.h"

namespace {

using namespace atlas;
using namespace atlas::kernels;
using namespace atlas::kernels::cuda;

struct Shape {
    const char* name;
    DataType type;
    int32_t d, tokens, heads, heads_kv, keys;
};

/** Rows of any type whose scales are near 1: f16 between 1 and 2, quants of any size. */
std::vector<uint16_t> random_rows(size_t bytes, DataType type) {
    std::mt19937 rng(1);
    std::vector<uint16_t> words(bytes / 2);
    const auto block = static_cast<size_t>(data_type_info(type).block_bytes) / 2;
    for (size_t i = 0; i < words.size(); ++i) {
        const bool number = block == 1 || i % block == 0;
        words[i] = static_cast<uint16_t>(number ? 0x3800 | (rng() & 0x83FF) : rng());
    }
    return words;
}

void measure(Device& device, const Shape& shape, int repetitions) {
    const int64_t row = static_cast<int64_t>(row_bytes(shape.type, shape.d));
    const int64_t pages = (shape.keys + kPageKeys - 1) / kPageKeys;
    const int64_t page_bytes = kPageKeys * row;
    const Buffer rows =
        upload(device, random_rows(static_cast<size_t>(2 * shape.heads_kv * pages * page_bytes), shape.type));
    std::vector<Page> table;
    std::vector<PageList> lists;
    for (int64_t head = 0; head < shape.heads_kv; ++head) {
        lists.push_back({static_cast<uint32_t>(head * pages), static_cast<uint32_t>((head + 1) * pages)});
        for (int64_t p = 0; p < pages; ++p) {
            const uint64_t at = rows.address() + static_cast<uint64_t>(2 * (head * pages + p) * page_bytes);
            const int64_t left = std::min<int64_t>(kPageKeys, shape.keys - p * kPageKeys);
            table.push_back({reinterpret_cast<const unsigned char*>(at),
                             reinterpret_cast<const unsigned char*>(at + static_cast<uint64_t>(page_bytes)),
                             left == kPageKeys ? ~uint64_t{0} : (uint64_t{1} << left) - 1, p * kPageKeys});
        }
    }
    std::vector<float> queries(static_cast<size_t>(shape.tokens) * static_cast<size_t>(shape.heads * shape.d));
    std::mt19937 rng(2);
    for (float& x : queries) x = std::normal_distribution<float>()(rng);
    const Buffer page_table = upload(device, table);
    const Buffer list_table = upload(device, lists);
    const Buffer q = upload(device, queries);
    Buffer out;
    need(device.allocate(queries.size() * sizeof(float), &out));

    AttentionArgs args;
    args.d_k = args.d_v = shape.d;
    args.n_tokens = shape.tokens;
    args.n_head = shape.heads;
    args.n_head_kv = shape.heads_kv;
    args.k_type = args.v_type = shape.type;
    const int group = shape.heads / shape.heads_kv;
    const AttentionPlan plan =
        plan_attention(args, shape.heads_kv, int64_t{shape.tokens} * group, pages, device.multiprocessors(), {});
    Buffer partial, tickets;
    need(device.allocate(queries.size() / static_cast<size_t>(shape.d) *
                             static_cast<size_t>(plan.splits * (shape.d + 2)) * sizeof(float),
                         &partial));
    need(device.allocate(static_cast<size_t>(shape.heads_kv * plan.row_blocks) * sizeof(unsigned), &tickets));
    need(device.clear(tickets));

    AttentionArguments a{};
    a.pages = page_table.as<Page>();
    a.lists = list_table.as<PageList>();
    a.q = q.as<float>();
    a.out = out.as<float>();
    a.partial = partial.as<float>();
    a.tickets = tickets.as<unsigned>();
    a.q_head_stride = a.out_head_stride = shape.d;
    a.q_token_stride = a.out_token_stride = int64_t{shape.d} * shape.heads;
    a.q_stream_stride = a.out_stream_stride = a.q_token_stride * shape.tokens;
    a.k_stride = a.v_stride = row;
    (void)row_type_of(shape.type, &a.k_type);
    a.v_type = a.k_type;
    a.d_k = a.d_v = shape.d;
    a.n_tokens = a.tile_tokens = shape.tokens;
    a.n_head = shape.heads;
    a.n_head_kv = shape.heads_kv;
    a.n_stream = a.tiles = a.mask_heads = a.mask_streams = 1;
    a.splits = plan.splits;
    a.scale = 1.0f / std::sqrt(static_cast<float>(shape.d));

    const auto blocks = static_cast<uint32_t>(shape.heads_kv * plan.row_blocks);
    const std::vector<double> times = times_of(
        device, repetitions, [&] { need(device.launch(plan.kernel, blocks, static_cast<uint32_t>(plan.splits), &a)); });
    std::vector<float> result(queries.size());
    need(device.download(result.data(), out, result.size() * sizeof(float)));
    need(device.wait());
    const double bytes = 2.0 * shape.heads_kv * static_cast<double>(shape.keys) * static_cast<double>(row);
    const double flops = 4.0 * shape.tokens * shape.heads * static_cast<double>(shape.keys) * shape.d;
    print(shape.name, info_of(plan.kernel).name, 1, bytes, flops, times, all_finite(result));
}

}  // namespace

int main(int argc, char** argv) {
    const int repetitions = argc > 1 ? std::max(1, std::atoi(argv[1])) : 20;
    const int most_keys = argc > 2 ? std::atoi(argv[2]) : 1 << 30;
    constexpr Shape kShapes[] = {
        {"decode f16, d 128, 8 heads, 32768 keys", DataType::kF16, 128, 1, 8, 8, 32768},
        {"decode f16, d 128, 32/8 heads, 32768 keys", DataType::kF16, 128, 1, 32, 8, 32768},
        {"decode f16, d 128, 32/8 heads, 131072 keys", DataType::kF16, 128, 1, 32, 8, 131072},
        {"decode f16, d 128, 64/8 heads, 32768 keys", DataType::kF16, 128, 1, 64, 8, 32768},
        {"decode q8_0, d 128, 32/8 heads, 32768 keys", DataType::kQ8_0, 128, 1, 32, 8, 32768},
        {"decode q4_0, d 128, 32/8 heads, 32768 keys", DataType::kQ4_0, 128, 1, 32, 8, 32768},
        {"decode f16, d 64, 9/3 heads, 8192 keys", DataType::kF16, 64, 1, 9, 3, 8192},
        {"decode f16, d 256, 4/1 heads, 32768 keys", DataType::kF16, 256, 1, 4, 1, 32768},
        {"prompt f16, d 128, 512 tokens, 32/8 heads, 8192 keys", DataType::kF16, 128, 512, 32, 8, 8192},
        {"prompt f16, d 64, 512 tokens, 9/3 heads, 8192 keys", DataType::kF16, 64, 512, 9, 3, 8192},
        {"prompt f16, d 256, 512 tokens, 4/1 heads, 8192 keys", DataType::kF16, 256, 512, 4, 1, 8192},
        {"prompt q8_0, d 128, 512 tokens, 32/8 heads, 8192 keys", DataType::kQ8_0, 128, 512, 32, 8, 8192},
    };
    Device* device = nullptr;
    need(open_device(&device));
    std::printf("{\"device\": \"%s\", \"architecture\": %d, \"multiprocessors\": %d}\n", device->name().c_str(),
                device->architecture(), device->multiprocessors());
    for (Shape shape : kShapes) {
        shape.keys = std::min(shape.keys, most_keys);
        measure(*device, shape, repetitions);
    }
    constexpr SparseShape kSparseShapes[] = {
        {"sparse f16, d 128, 32/8 heads, 131072 keys, 512 of each", "encode f16, d 128, 8 heads, 131072 keys", 128, 32,
         8, 131072, 512},
        {"sparse f16, d 64, 9/3 heads, 8192 keys, 256 of each", "encode f16, d 64, 3 heads, 8192 keys", 64, 9, 3, 8192,
         256},
    };
    for (SparseShape shape : kSparseShapes) {
        shape.keys = std::max(kPageKeys, std::min(shape.keys, most_keys));
        measure_sparse(*device, shape, repetitions);
    }
    constexpr ProductShape kProductShapes[] = {
        {"product q8_0, 4096 x 4096, 1 column", WeightType::kQ8_0, 4096, 4096, 1},
        {"product q4_0, 4096 x 4096, 1 column", WeightType::kQ4_0, 4096, 4096, 1},
        {"product q4_K, 4096 x 4096, 1 column", WeightType::kQ4_K, 4096, 4096, 1},
        {"product q4_K, 14336 x 4096, 1 column", WeightType::kQ4_K, 14336, 4096, 1},
        {"product q6_K, 4096 x 4096, 1 column", WeightType::kQ6_K, 4096, 4096, 1},
        {"product q4_K, 4096 x 4096, 4 columns", WeightType::kQ4_K, 4096, 4096, 4},
    };
    for (ProductShape shape : kProductShapes) {
        shape.rows = std::min(shape.rows, most_keys);
        measure_product(*device, shape, repetitions);
    }
    return 0;
}
