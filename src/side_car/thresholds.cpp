#include "side_car/thresholds.h"

#include <algorithm>

namespace atlas::side_car {

float Thresholds::of(std::string_view name, int64_t inputs, int64_t outputs, double share) const {
    const auto found = weights.find(name);
    if (found == weights.end() || found->second.inputs != inputs || found->second.outputs != outputs) return 0.0f;
    const double percent = std::clamp(100.0 * share, 0.0, static_cast<double>(kShares.back()));
    double low = 0.0, low_at = 0.0;
    for (size_t i = 0; i < kShares.size(); ++i) {
        const auto high = static_cast<double>(kShares[i]);
        const auto high_at = static_cast<double>(found->second.at[i]);
        if (percent <= high) return static_cast<float>(low_at + (high_at - low_at) * (percent - low) / (high - low));
        low = high;
        low_at = high_at;
    }
    return found->second.at.back();
}

bool has_sparse_inputs(std::string_view name) {
    constexpr std::string_view kKinds[] = {"attn_q",   "attn_k", "attn_v",  "attn_qkv", "attn_output",
                                           "ffn_gate", "ffn_up", "ffn_down"};
    constexpr std::string_view kEnd = ".weight";
    if (!name.starts_with("blk.") || !name.ends_with(kEnd)) return false;
    name.remove_suffix(kEnd.size());
    const std::string_view kind = name.substr(name.rfind('.') + 1);
    return std::find(std::begin(kKinds), std::end(kKinds), kind) != std::end(kKinds);
}

}  // namespace atlas::side_car
