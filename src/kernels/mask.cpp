#include <algorithm>

#include "kernels/attention.h"

namespace atlas::kernels {
namespace {

constexpr uint16_t kMinusInfinity = 0xFC00;

BlockVisibility classify(const uint16_t* values, int64_t count) {
    // Two sums without branches, which the compiler turns into vector code: how many are not ±0, how many are not −inf.
    uint32_t not_zero = 0;
    uint32_t not_hidden = 0;
    for (int64_t i = 0; i < count; ++i) {
        not_zero += (values[i] & 0x7FFF) != 0;
        not_hidden += values[i] != kMinusInfinity;
    }
    if (not_zero == 0) return BlockVisibility::kAll;
    return not_hidden == 0 ? BlockVisibility::kNone : BlockVisibility::kMixed;
}

}  // namespace

void summarize_mask(const Mask& mask, int64_t n_tokens, int64_t n_keys, BlockVisibility* out, int n_threads) {
    const int64_t blocks = (n_keys + kBlockKeys - 1) / kBlockKeys;
    const int64_t rows = mask.n_streams * mask.n_heads * n_tokens;
    const int threads = rows * n_keys > (1 << 18) ? std::max(1, n_threads) : 1;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < rows; ++row) {
        const int64_t token = row % n_tokens;
        const int64_t head = row / n_tokens % mask.n_heads;
        const int64_t stream = row / n_tokens / mask.n_heads;
        const uint16_t* values =
            mask.data + stream * mask.stream_stride + head * mask.head_stride + token * mask.token_stride;
        for (int64_t block = 0; block < blocks; ++block) {
            const int64_t key = block * kBlockKeys;
            out[row * blocks + block] = classify(values + key, std::min<int64_t>(kBlockKeys, n_keys - key));
        }
    }
}

}  // namespace atlas::kernels
