#pragma once

#include <cstdint>
#include <string>

namespace atlas::runtime {

class Runtime;

/** What a host's model says of itself. */
struct ModelFacts {
    std::string architecture;
    std::string name;
    uint64_t n_params = 0;  ///< elements of all tensors
};

/**
 * Whether the side-car in use by `runtime` is this model's: the file with the side-car's fingerprint says the same of itself. false without a side-car, and for a
 * model in several files. Thread-safe.
 */
bool has_learned_memories(Runtime& runtime, const ModelFacts& model);

}  // namespace atlas::runtime
