#include "runtime/ram_split.h"

#include <algorithm>
#include <cstdio>

#include "weights/streamer.h"

namespace atlas::runtime {
namespace {

// Each step costs one reading of the weights that stay, which is what a few tokens read.
constexpr uint64_t kSteps = 16;

/** What weights are streamed with at least: reads of some size beside a subset that stays. Rows of large models need them. */
uint64_t least_weights(const RamNeeds& needs) {
    constexpr uint64_t kShareOfWeights = 32, kShareOfRam = 4;
    const uint64_t wanted = std::min(needs.weights / kShareOfWeights, needs.ram / kShareOfRam);
    return std::min(needs.weights, std::max(weights::kLeastWeightsRam, wanted));
}

uint64_t kv_limit(const RamNeeds& needs) {
    const uint64_t most = needs.ram - std::min(needs.ram, least_weights(needs));
    if (!needs.disk) return most;
    const uint64_t left = needs.ram - std::min(needs.ram, needs.weights);
    // Without its index a sparse context reads every key of each token.
    const uint64_t for_index = std::min(needs.ram / 2, needs.index + needs.index / 4);
    return std::min(most, std::max({left, needs.ram / 4, for_index}));
}

uint64_t step(const RamNeeds& needs) { return needs.ram / kSteps; }

std::string size(uint64_t bytes) {
    char text[32];
    const double mib = static_cast<double>(bytes) / (1 << 20);
    std::snprintf(text, sizeof text, mib < 1024 ? "%.1f MiB" : "%.1f GiB", mib < 1024 ? mib : mib / 1024);
    return text;
}

}  // namespace

RamSplit split_ram(const RamNeeds& needs) {
    if (needs.fit()) return {needs.ram - needs.kv, needs.kv, std::max<uint64_t>(needs.ram - needs.weights, 1)};
    const uint64_t limit = std::max<uint64_t>(kv_limit(needs), 1);
    const uint64_t used = needs.used();
    uint64_t kv = std::min(limit, (used / step(needs) + 2) * step(needs));
    if (used <= needs.kv) kv = std::min(kv, needs.kv);
    return {needs.ram - kv, kv, limit};
}

bool has_room(const RamSplit& last, const RamNeeds& needs) {
    const uint64_t used = needs.used();
    if (needs.fit() || last.kv >= last.kv_limit || (used <= needs.kv && needs.kv <= last.kv)) return true;
    // Beside what a graph is seen to write: copies of shared pages, its index.
    return used + step(needs) / 4 <= last.kv;
}

std::string words_of(const RamSplit& split, const RamNeeds& needs, const std::string& ram) {
    std::string text = "ATLAS_RAM=" + ram + ": weights " + size(std::min(split.weights, needs.weights)) + " of " +
                       size(needs.weights) + ", KV cache " + size(std::min(split.kv, needs.kv)) + " of " +
                       size(needs.kv);
    if (needs.fit()) return text;
    const uint64_t most = std::min(split.kv_limit, needs.kv);
    if (split.kv < most) text += ", up to " + size(most) + " as it grows and weights give way";
    if (split.weights < needs.weights) text += "; the other weights are read from their file for each batch";
    if (split.kv_limit < needs.kv)
        text += needs.disk ? "; the rest of the KV cache goes to ATLAS_KV_DISK"
                           : "; a context that needs more fails a decode (ATLAS_KV_DISK, or a smaller -c)";
    return text;
}

}  // namespace atlas::runtime
