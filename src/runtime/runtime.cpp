#include "runtime/runtime.h"

#include <exception>
#include <fstream>
#include <string>
#include <utility>

#include "base/log.h"
#include "runtime/session.h"

namespace atlas::runtime {

Runtime::Runtime(Options options)
    : options_(std::move(options)), kv_budget_(options_.kv_ram_bytes), side_car_(options_.side_car, options_.model, options_.memory.budget_bytes) {}

AbsenceCounts Runtime::absences() const {
    AbsenceCounts sum;
    // Held by a session that ends while it leaves the list and hands in its own: it is counted once.
    const std::lock_guard lock(mutex_);
    sum.add(absences_);
    sessions_.for_each([&](const Session& session) { sum.add(session.participation().counts()); });
    return sum;
}

bool Runtime::begin_calibration(side_car::Calibration* calibration) {
    side_car::Calibration* none = nullptr;
    return calibration_.compare_exchange_strong(none, calibration);
}

void Runtime::end_calibration(side_car::Calibration* calibration) {
    calibration_.compare_exchange_strong(calibration, nullptr);
}

void Runtime::enter(Session* session) { sessions_.add(session); }

void Runtime::leave(Session* session) {
    const std::lock_guard lock(mutex_);
    sessions_.remove(session);
    absences_.add(session->participation().counts());
}

std::string Runtime::statistics() const {
    // One more member of the same object.
    std::string text = stats_.json();
    text.insert(text.rfind('}'), ", \"absent\": " + absences().json());
    return text;
}

void Runtime::write_statistics() const noexcept {
    const std::string& target = options_.stats;
    if (target.empty()) return;
    try {
        if (stats_.empty() && absences().empty()) return;
        std::string text = statistics();
        if (target == "1") {
            std::erase(text, '\n');
            log().info("attention: {}", text);
            return;
        }
        std::ofstream file(target);
        file << text;
        // Tried again when the next session ends; said once.
        if (!file.flush() && !unwritable_.exchange(true)) log().error("statistics: cannot write '{}'", target);
    } catch (const std::exception&) {
        // The host is ending: it must not end by an exception in a destructor.
        log().error("statistics: out of memory");
    }
}

}  // namespace atlas::runtime
