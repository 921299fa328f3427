#pragma once

#include <string>

namespace atlas::runtime {

class Runtime;

/** What a runtime's contexts did and hold, in Prometheus' text format (version 0.0.4); docs/metrics.md lists the names. Thread-safe. Throws std::bad_alloc. */
std::string metrics_text(Runtime& runtime);

}  // namespace atlas::runtime
