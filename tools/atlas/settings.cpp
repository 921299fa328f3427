#include "settings.h"

namespace atlas::tool {

const std::vector<Setting>& settings() {
    static const std::vector<Setting> all = {
        {"atlas-device", "ATLAS_DEVICE",
         "owner (Atlas keeps the KV cache, default) or accel (it stays in the CPU's buffers)", nullptr},
        {"atlas-kernel", "ATLAS_KERNEL", "force a kernel variant: auto, reference, avx2, avx512, avx512_bf16, neon",
         nullptr},
        {"atlas-kv-ram", "ATLAS_KV_RAM", "budget of the KV cache in RAM, for example 8G", nullptr},
        {"atlas-threads", "ATLAS_THREADS", "threads of Atlas's operations (default: what the program sets)", nullptr},
        {"atlas-log-level", "ATLAS_LOG_LEVEL", "trace, debug, info, warn (default), error or off", nullptr},
        {"atlas-debug", "ATLAS_DEBUG", "the same as --atlas-log-level debug", "1"},
    };
    return all;
}

const Setting* find_setting(std::string_view flag) {
    for (const Setting& setting : settings()) {
        if (flag == setting.flag) return &setting;
    }
    return nullptr;
}

std::string setting_names() {
    std::string names;
    for (const Setting& setting : settings()) names += (names.empty() ? "--" : ", --") + std::string(setting.flag);
    return names;
}

}  // namespace atlas::tool
