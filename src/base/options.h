#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "base/status.h"

namespace atlas {

enum class DeviceMode { kOwner, kAccel };

/**
 * Everything an environment variable can set. This is the only place that reads the environment; each field names its variable,
 * its default and what is allowed. docs/options.md lists the same.
 */
struct Options {
    /** ATLAS_DEVICE=owner|accel: which device is registered. */
    DeviceMode device = DeviceMode::kOwner;
    /** ATLAS_LOG_LEVEL=trace|debug|info|warn|error|off; ATLAS_DEBUG=1 lowers it to debug. 0 = trace … 4 = error, 6 = off. */
    int log_level = 3;
    /** ATLAS_KERNEL=auto|reference|avx2|avx512|avx512_bf16|neon: forces a kernel variant; loading fails when the CPU lacks it. */
    std::string kernel = "auto";
    /** ATLAS_THREADS=0…1024: threads of Atlas's parallel regions; 0 = what the host sets. */
    int threads = 0;
    /** ATLAS_KV_RAM=<bytes, suffix K, M, G allowed>: budget of the RAM tier; 0 = no limit. */
    uint64_t kv_ram_bytes = 0;
    /** ATLAS_PAGE_ALL=0|1: test switch, every 2-D to 4-D tensor that is not a compute buffer is paged, whatever its name. */
    bool page_all = false;
};

/** Parses options; `get` returns the value of a variable or nullopt. Malformed or contradictory values name variable, value, allowed. */
Status parse_options(const std::function<std::optional<std::string>(const char*)>& get, Options* out);

/** The process's options, parsed from the environment at first use. On error the defaults; see options_status(). */
const Options& options();

/** Whether the environment could be parsed; the plug-in refuses to load when it could not. */
const Status& options_status();

}  // namespace atlas
