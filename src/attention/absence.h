#pragma once

#include <cstddef>
#include <cstdint>

#include "attention/call.h"

namespace atlas::attention {

/** Why sparse attention, or the memory beside it, takes no part although it was asked for. */
enum class Absence : uint8_t {
    kNone,
    kNotInCells,      ///< K and V are no KV cache in Atlas's pages, one key of all heads a row
    kManyTokens,      ///< in one call
    kIndexBudget,     ///< there was no room for the index
    kBelowThreshold,  ///< of a whole context: no query saw more keys than ATLAS_THRESHOLD
    kNoAttention,     ///< of a whole context: no attention reached Atlas
    kMemoryAlibi,     ///< of the memory alone, as the next ones
    kMemoryMaskHeads,
    kMemoryWithoutSparse,  ///< ATLAS_MEMORY=1 with exact attention
};
inline constexpr size_t kAbsences = static_cast<size_t>(Absence::kMemoryWithoutSparse) + 1;

/** Tokens of one call that keys can be selected for: counts per page are 16 bits wide. */
inline constexpr int64_t kMostTokens = 65535;

constexpr bool is_of_memory(Absence why) { return why >= Absence::kMemoryAlibi; }

/** One clause for logs and statistics, "" for kNone. */
constexpr const char* text(Absence why) {
    switch (why) {
        case Absence::kNone:
            return "";
        case Absence::kNotInCells:
            return "keys and values do not lie in Atlas's pages as the cells of a KV cache";
        case Absence::kManyTokens:
            return "more than 65535 tokens in one call";
        case Absence::kIndexBudget:
            return "the index of the keys does not fit into the budget ATLAS_KV_RAM beside them";
        case Absence::kBelowThreshold:
            return "no query saw more keys than ATLAS_THRESHOLD";
        case Absence::kNoAttention:
            return "no attention ran on Atlas (flash attention is off, the layers are on another device, or it was "
                   "declined)";
        case Absence::kMemoryAlibi:
            return "the model biases its logits by distance (ALiBi)";
        case Absence::kMemoryMaskHeads:
            return "every head has a mask of its own";
        case Absence::kMemoryWithoutSparse:
            return "attention is exact, and ATLAS_MEMORY needs ATLAS_MODE=sparse";
    }
    return "";
}

/** A word for programs that read the statistics, "" for kNone. */
constexpr const char* name(Absence why) {
    switch (why) {
        case Absence::kNone:
            return "";
        case Absence::kNotInCells:
            return "not_in_cells";
        case Absence::kManyTokens:
            return "many_tokens";
        case Absence::kIndexBudget:
            return "index_budget";
        case Absence::kBelowThreshold:
            return "below_threshold";
        case Absence::kNoAttention:
            return "no_attention";
        case Absence::kMemoryAlibi:
            return "memory_alibi";
        case Absence::kMemoryMaskHeads:
            return "memory_mask_heads";
        case Absence::kMemoryWithoutSparse:
            return "memory_without_sparse";
    }
    return "";
}

/** Why no keys can be selected for a call that has enough of them; kBelowThreshold where only the visible ones are too few. */
inline Absence absence_of(const AttentionCall& call) {
    if (!call.in_cells()) return Absence::kNotInCells;
    return call.args.n_tokens > kMostTokens ? Absence::kManyTokens : Absence::kBelowThreshold;
}

/** Why no memory corrects a call, or kNone. */
inline Absence memory_absence_of(const kernels::AttentionArgs& args) {
    if (args.max_bias != 0.0f) return Absence::kMemoryAlibi;
    return args.mask.n_heads != 1 ? Absence::kMemoryMaskHeads : Absence::kNone;
}

}  // namespace atlas::attention
