#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <utility>

#include "attention/absence.h"
#include "base/options.h"

namespace atlas::runtime {

/** "sparse attention with memory" and the like; "" where options ask for nothing but exact attention. */
std::string what_is_asked(const Options& options);

/** ATLAS_MEMORY=1 with exact attention. A side-car that lies beside the model, and is found without being asked for, is not that. */
bool asks_memory_alone(const Options& options);

/** How often something that was asked for took no part, of one context or of many. */
struct AbsenceCounts {
    struct Count {
        uint64_t contexts = 0;
        uint64_t calls = 0;  ///< attention operations; 0 where the reason is one of a whole context
    };
    std::array<Count, attention::kAbsences> of{};

    void add(const AbsenceCounts& other);
    bool empty() const;
    /** [{"reason": "not_in_cells", "text": "…", "contexts": 1, "calls": 24}, …], those that occurred. */
    std::string json() const;
};

/**
 * Whether what was asked for takes part in one context. Each reason why it does not is said once, at level warn; that no text was long enough is only
 * known at the end, and no fault, hence level info. Noted by one thread at a time; counts() from any.
 */
class Participation {
public:
    /** `what` was asked for: "sparse attention". Empty: nothing was, and nothing is said or counted. */
    explicit Participation(std::string what) { ask(std::move(what)); }
    /** From here on this is asked for. By the thread that notes. */
    void ask(std::string what) {
        what_ = std::move(what);
        asked_.store(!what_.empty(), std::memory_order_relaxed);
    }

    /** One attention operation: estimated in part (kNone), or exact because of `why`. kBelowThreshold is counted, and said by finish(). */
    void note(attention::Absence why) {
        std::atomic<uint64_t>& count = calls_[static_cast<size_t>(why)];
        const uint64_t before = count.load(std::memory_order_relaxed);
        count.store(before + 1, std::memory_order_relaxed);
        if (before == 0 && why != attention::Absence::kNone && why != attention::Absence::kBelowThreshold) say(why);
    }
    /** One operation that was estimated in part, and whose estimate the memory corrects (kNone) or not. */
    void note_memory(attention::Absence why) {
        if (why != attention::Absence::kNone) note(why);
    }
    /** The context ends. no_attention: it computed graphs, and no attention was among what they asked of Atlas. */
    void finish(bool no_attention);

    /** What counts as absent so far. */
    AbsenceCounts counts() const;
    /** Attention operations noted. */
    uint64_t calls() const;

private:
    void say(attention::Absence why) const noexcept;
    uint64_t at(attention::Absence why) const {
        return calls_[static_cast<size_t>(why)].load(std::memory_order_relaxed);
    }

    std::string what_;                                                 // of the thread that notes
    std::atomic<bool> asked_{false};                                   // whether there is a what_
    std::array<std::atomic<uint64_t>, attention::kAbsences> calls_{};  // written by one thread
};

}  // namespace atlas::runtime
