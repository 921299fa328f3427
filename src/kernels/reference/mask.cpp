#include <algorithm>
#include <cmath>

#include "kernels/reference/reference.h"

namespace atlas::kernels::reference {

void summarize_mask(const Mask& mask, int64_t n_tokens, int64_t n_keys, BlockVisibility* out, int /*n_threads*/) {
    for (int64_t stream = 0; stream < mask.n_streams; ++stream) {
        for (int64_t head = 0; head < mask.n_heads; ++head) {
            for (int64_t token = 0; token < n_tokens; ++token) {
                const uint16_t* values =
                    mask.data + stream * mask.stream_stride + head * mask.head_stride + token * mask.token_stride;
                for (int64_t key = 0; key < n_keys; key += kBlockKeys) {
                    const uint16_t* end = values + std::min(key + kBlockKeys, n_keys);
                    const auto is = [](float wanted) {
                        return [wanted](uint16_t bits) { return f16_to_f32(bits) == wanted; };
                    };
                    *out++ = std::all_of(values + key, end, is(0.0f))         ? BlockVisibility::kAll
                             : std::all_of(values + key, end, is(-HUGE_VALF)) ? BlockVisibility::kNone
                                                                              : BlockVisibility::kMixed;
                }
            }
        }
    }
}

}  // namespace atlas::kernels::reference
