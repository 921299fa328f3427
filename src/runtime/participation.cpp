#include "runtime/participation.h"

#include <exception>

#include "base/log.h"

namespace atlas::runtime {

using attention::Absence;

bool asks_memory_alone(const Options& options) {
    return options.sparse.mode == AttentionMode::kExact && options.memory.enabled && is_given(options, "ATLAS_MEMORY");
}

std::string what_is_asked(const Options& options) {
    if (options.sparse.mode == AttentionMode::kExact) return asks_memory_alone(options) ? "memory" : "";
    const std::string what = options.sparse.mode == AttentionMode::kWindow ? "window attention" : "sparse attention";
    return options.memory.enabled ? what + " with memory" : what;
}

void AbsenceCounts::add(const AbsenceCounts& other) {
    for (size_t i = 0; i < of.size(); ++i) {
        of[i].contexts += other.of[i].contexts;
        of[i].calls += other.of[i].calls;
    }
}

bool AbsenceCounts::empty() const {
    for (const Count& count : of) {
        if (count.contexts > 0) return false;
    }
    return true;
}

std::string AbsenceCounts::json() const {
    std::string list;
    for (size_t i = 0; i < of.size(); ++i) {
        if (of[i].contexts == 0) continue;
        const auto why = static_cast<Absence>(i);
        list += std::string(list.empty() ? "\n" : ",\n") + "  {\"reason\": \"" + attention::name(why) +
                "\", \"text\": \"" + attention::text(why) + "\", \"contexts\": " + std::to_string(of[i].contexts) +
                ", \"calls\": " + std::to_string(of[i].calls) + "}";
    }
    return "[" + list + "]";
}

void Participation::say(Absence why) const noexcept {
    if (what_.empty()) return;
    const char* what = is_of_memory(why) ? "memory" : what_.c_str();
    try {
        if (why == Absence::kBelowThreshold) {
            log().info("{} took no part in a context: {}", what, attention::text(why));
        } else {
            log().warn("{} takes no part in a context: {}", what, attention::text(why));
        }
    } catch (const std::exception&) {
        // No memory for a sentence: it is counted all the same.
    }
}

void Participation::finish(bool no_attention) {
    if (no_attention) note(Absence::kNoAttention);
    if (counts().of[static_cast<size_t>(Absence::kBelowThreshold)].contexts > 0) say(Absence::kBelowThreshold);
}

AbsenceCounts Participation::counts() const {
    AbsenceCounts counts;
    if (!asked_.load(std::memory_order_relaxed)) return counts;
    for (size_t i = 1; i < counts.of.size(); ++i) {
        const auto why = static_cast<Absence>(i);
        const uint64_t noted = at(why);
        // A short text is exact because it is short; only a context in which nothing was ever long is worth a word.
        if (noted == 0 || (why == Absence::kBelowThreshold && noted < calls())) continue;
        const bool of_context = why == Absence::kNoAttention || why == Absence::kMemoryWithoutSparse;
        counts.of[i] = {1, of_context ? 0 : noted};
    }
    return counts;
}

uint64_t Participation::calls() const {
    uint64_t sum = 0;
    for (size_t i = 0; i < calls_.size(); ++i) {
        const auto why = static_cast<Absence>(i);
        if (why != Absence::kNoAttention && !is_of_memory(why)) sum += at(why);
    }
    return sum;
}

}  // namespace atlas::runtime
