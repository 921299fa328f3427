#include "runtime/plugin_runtime.h"

#include <mutex>
#include <utility>

namespace atlas::runtime {
namespace {

std::shared_ptr<Runtime>& slot() {
    // Leaked on purpose, as the header says.
    static auto& instance = *new std::shared_ptr<Runtime>(std::make_shared<Runtime>(Options{}));
    return instance;
}

/** Ends with the library's static objects. Those of a host that were made before the library was loaded end later, contexts among them. */
struct AtEnd {
    ~AtEnd() {
        slot()->write_statistics();
        // Its thread is not to be there when the library is not.
        slot()->close_metrics();
    }
};

}  // namespace

const std::shared_ptr<Runtime>& plugin_runtime() { return slot(); }

Status start_plugin_runtime(const Options& options) {
    static std::once_flag once;
    Status status;
    std::call_once(once, [&] {
        auto made = std::make_shared<Runtime>(options);
        status = made->open_disk();
        if (status.is_ok()) status = made->open_metrics();
        if (status.is_ok()) slot() = std::move(made);
    });
    static const AtEnd at_end;
    return status;
}

}  // namespace atlas::runtime
