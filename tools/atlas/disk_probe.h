#pragma once

#include <string>

namespace atlas::tool {

/** How fast a folder's disk takes pages of a KV cache and gives them back. */
struct DiskProbe {
    std::string error;      ///< not empty: it cannot be used, and why
    bool direct = false;    ///< past the system's cache; else figures are of memory
    double write_rate = 0;  ///< bytes a second
    double read_rate = 0;
    unsigned long long free_bytes = 0;
};

/** Writes, reads and removes a file of 64 MB. */
DiskProbe probe_disk(const std::string& folder);

}  // namespace atlas::tool
