#pragma once

#include "memory/feature_map.h"

namespace atlas::memory::reference {

/** Float64 oracle: φ(x) for one input, features of polynomial kinds enumerated tuple by tuple. */
std::vector<double> map_features(const FeatureMap& map, const double* x);

}  // namespace atlas::memory::reference
