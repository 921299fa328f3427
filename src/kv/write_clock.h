#pragma once

#include <atomic>
#include <cstdint>

namespace atlas::kv {

/**
 * What orders the writes to all page tables of one device. 64 bits: at a million graphs a second it wraps after half a
 * million years. Thread-safe; outlives the tables that use it.
 */
class WriteClock {
public:
    explicit WriteClock(uint64_t start = 1) : now_(start) {}
    WriteClock(const WriteClock&) = delete;
    WriteClock& operator=(const WriteClock&) = delete;

    uint64_t now() const { return now_.load(std::memory_order_relaxed); }
    /** To be called between groups of writes that count as simultaneous (one graph). */
    void advance() { now_.fetch_add(1, std::memory_order_relaxed); }

private:
    std::atomic<uint64_t> now_;
};

}  // namespace atlas::kv
