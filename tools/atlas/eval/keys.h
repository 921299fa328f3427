#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace atlas::eval {

/**
 * Which keys were read, from the text that ATLAS_STATS makes: {layers: [{layer, calls, exact_calls, visible, read, index_bytes}], share, calls,
 * exact_calls, index_bytes}. `visible` and `read` are keys per selection where sparse attention took part, `share` is read / visible over all
 * layers. null where the text is empty (all was exact) or is not what ATLAS_STATS makes.
 */
nlohmann::json keys_of(const std::string& statistics);

}  // namespace atlas::eval
