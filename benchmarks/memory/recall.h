#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "memory/omega.h"

/** Associative recall: random unit keys and unit values, one pass over the pairs, then every key is asked for. */
struct RecallTask {
    size_t d = 32;
    size_t pairs = 128;
    uint64_t seed = 1;
};

/** A memory to try: a closed form, or a learned one. */
struct Method {
    std::string name;
    enum Kind { kHebbian, kRidge, kRecursive, kDelta, kLearned } kind = kLearned;
    int degree = 1;                    ///< of the polynomial features; 1 is the key itself
    atlas::memory::MemoryShape shape;  ///< of kLearned; d_in and d_out are filled in
    atlas::memory::OmegaConfig rule;   ///< of kLearned
    size_t chunk = 1;                  ///< pairs per update of kLearned
};

/** Share of keys whose answer is closer (cosine) to their own value than to any other. */
double recall(const RecallTask& task, const Method& method);
