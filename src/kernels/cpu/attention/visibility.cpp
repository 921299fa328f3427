#include "kernels/cpu/attention/visibility.h"

#include <algorithm>

#include "base/parallel.h"
#include "kernels/cpu/cpu.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention/visibility.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

/** f16 of ±0 without its sign, and of −inf. */
constexpr uint16_t kMagnitude = 0x7FFF;
constexpr uint16_t kHidden = 0xFC00;

void ClassifyBlocks(const uint16_t* mask, int64_t n, BlockVisibility* out) {
    const hn::CappedTag<uint16_t, kBlockKeys> d;
    const auto lanes = static_cast<int64_t>(hn::Lanes(d));
    const auto zero = hn::Zero(d);
    const auto magnitude = hn::Set(d, kMagnitude), hidden = hn::Set(d, kHidden);
    for (int64_t block = 0; block < n; block += kBlockKeys) {
        const int64_t end = std::min(block + kBlockKeys, n);
        auto not_zero = zero, not_hidden = zero;
        int64_t i = block;
        for (; i + lanes <= end; i += lanes) {
            const auto v = hn::LoadU(d, mask + i);
            not_zero = hn::Or(not_zero, hn::And(v, magnitude));
            not_hidden = hn::Or(not_hidden, hn::Xor(v, hidden));
        }
        bool all = hn::AllTrue(d, hn::Eq(not_zero, zero));
        bool none = hn::AllTrue(d, hn::Eq(not_hidden, zero));
        for (; i < end; ++i) {
            all = all && (mask[i] & kMagnitude) == 0;
            none = none && mask[i] == kHidden;
        }
        *out++ = all ? BlockVisibility::kAll : none ? BlockVisibility::kNone : BlockVisibility::kMixed;
    }
}

}  // namespace
}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace atlas::kernels::cpu {

HWY_EXPORT(ClassifyBlocks);

void classify_blocks(const uint16_t* mask, int64_t n, BlockVisibility* out) {
    HWY_DYNAMIC_DISPATCH(ClassifyBlocks)(mask, n, out);
}

void summarize_mask(const Mask& mask, int64_t n_tokens, int64_t n_keys, BlockVisibility* out, int n_threads) {
    // Fewer values than this are read sooner than threads are started.
    constexpr int64_t kParallelValues = 1 << 18;
    const int64_t blocks = (n_keys + kBlockKeys - 1) / kBlockKeys;
    const int64_t rows = mask.n_streams * mask.n_heads * n_tokens;
    parallel_for(rows, rows * n_keys > kParallelValues ? n_threads : 1, Schedule::kStatic, [&](int64_t row) {
        const int64_t token = row % n_tokens;
        const int64_t head = row / n_tokens % mask.n_heads;
        const int64_t stream = row / n_tokens / mask.n_heads;
        const uint16_t* values =
            mask.data + stream * mask.stream_stride + head * mask.head_stride + token * mask.token_stride;
        classify_blocks(values, n_keys, out + row * blocks);
    });
}

}  // namespace atlas::kernels::cpu
#endif
