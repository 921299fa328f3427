#include "side_car/side_car.h"

#include <algorithm>

namespace atlas::side_car {

MemoryOptions options_with(const SideCar& side_car, MemoryOptions options) {
    const MemoryOptions& file = side_car.options;
    options.kind = file.kind;
    options.features = file.features;
    options.degree = file.degree;
    options.hidden = file.hidden;
    options.omega_window = file.omega_window;
    options.omega_alpha = file.omega_alpha;
    options.muon_iterations = file.muon_iterations;
    options.blend_ratio = std::min(options.blend_ratio, file.blend_ratio);
    return options;
}

}  // namespace atlas::side_car
