#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <utility>

namespace atlas::kv {

/** Bytes that may be used of something, and that are. Shared by all who use them; owned by whoever made it. Thread-safe. */
class Budget {
public:
    /** `limit` in bytes, 0: none. `name` is what a user sets the limit by, for messages. */
    explicit Budget(uint64_t limit = 0, std::string name = "ATLAS_KV_RAM") : name_(std::move(name)), limit_(limit) {}
    Budget(const Budget&) = delete;
    Budget& operator=(const Budget&) = delete;

    /** Takes bytes; false, and nothing is taken, where they would exceed the limit. */
    [[nodiscard]] bool reserve(uint64_t bytes) noexcept;
    /** Gives back what reserve() took. */
    void release(uint64_t bytes) noexcept;

    uint64_t in_use() const noexcept { return in_use_.load(std::memory_order_relaxed); }
    uint64_t limit() const noexcept { return limit_.load(std::memory_order_relaxed); }
    /** A limit below what is in use takes nothing away: it only refuses more. */
    void set_limit(uint64_t bytes) noexcept { limit_.store(bytes, std::memory_order_relaxed); }

    /** "1000 bytes of the budget ATLAS_KV_RAM=4096 are in use". */
    std::string to_string() const;

private:
    const std::string name_;
    std::atomic<uint64_t> limit_;
    std::atomic<uint64_t> in_use_{0};
};

}  // namespace atlas::kv
