#include "runtime/collector.h"

#include <algorithm>

namespace atlas::runtime {
namespace {

thread_local Collector* t_innermost = nullptr;

}  // namespace

Collector::Collector() : outer_(t_innermost) { t_innermost = this; }

Collector::~Collector() { t_innermost = outer_; }

void Collector::reached(Session& session) noexcept {
    Collector* collector = t_innermost;
    if (!collector || collector->count_ == kMost) return;
    const auto end = collector->sessions_.begin() + static_cast<std::ptrdiff_t>(collector->count_);
    if (std::find(collector->sessions_.begin(), end, &session) == end)
        collector->sessions_[collector->count_++] = &session;
}

}  // namespace atlas::runtime
