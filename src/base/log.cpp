#include "base/log.h"

#include <spdlog/sinks/ansicolor_sink.h>

#include <memory>

#include "base/options.h"

namespace atlas {

spdlog::logger& log() {
    // Leaked on purpose: static destructors of the host may still log.
    static spdlog::logger& logger = *[] {
        auto* created = new spdlog::logger("atlas", std::make_shared<spdlog::sinks::ansicolor_stderr_sink_mt>());
        created->set_pattern("%n: [%l] %v");
        created->set_level(static_cast<spdlog::level::level_enum>(options().log_level));
        return created;
    }();
    return logger;
}

}  // namespace atlas
