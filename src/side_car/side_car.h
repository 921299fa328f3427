#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "attention/correct/far_memory.h"
#include "base/options.h"
#include "side_car/thresholds.h"

namespace atlas::side_car {

constexpr int64_t kSideCarVersion = 1;

/** Attention of one layer, as it must be in a context that starts from the file. */
struct SideCarLayer {
    int layer = 0;
    int64_t n_head_kv = 0;
    int64_t d_k = 0;
    int64_t d_v = 0;

    bool operator==(const SideCarLayer&) const = default;
};

/** How the memories came to be; for people. */
struct SideCarOrigin {
    std::string model_name;    ///< general.name of the model, or its file's name
    std::string planner;       ///< settings of sparse attention during calibration
    int64_t context = 0;       ///< tokens per document
    int64_t documents = 0;     ///< learned from
    int64_t held_out = 0;      ///< that decided gates
    int64_t observations = 0;  ///< learned from, all heads together
};

/** What was learned of one model: where memories start, and thresholds; docs/side-car.md describes the file. */
struct SideCar {
    bool enabled = true;       ///< false: no head gained anything, of memories nothing is to be used
    uint64_t fingerprint = 0;  ///< of the model, gguf::fingerprint_of()
    /** What the file decides: kind, features, degree, hidden, omega_window, omega_alpha, muon_iterations, blend_ratio, and the seed below. */
    MemoryOptions options;
    uint64_t seed = 1;                 ///< of random features
    int layer_count = 0;               ///< number of the last layer with attention, plus one
    std::vector<SideCarLayer> layers;  ///< those with memories, ascending
    attention::InitialMemories memories;
    Thresholds thresholds;  ///< of inputs that products for single tokens leave out; may be empty
    SideCarOrigin origin;
};

/** `options` as the environment gave them, with what the file decides: its ceiling of the gate counts where it is the lower one. */
MemoryOptions options_with(const SideCar& side_car, MemoryOptions options);

}  // namespace atlas::side_car
