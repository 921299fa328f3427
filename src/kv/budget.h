#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
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
    /**
     * As reserve(); where that fails, whoever can make room is asked to, once. It may take locks of pages and wait for a disk: to be called with none of these
     * locks held.
     */
    [[nodiscard]] bool reserve_or_relieve(uint64_t bytes);
    /** Who can: called with the bytes that are needed, returns whether there is room now; empty: nobody. Not while others use the budget. */
    void set_relief(std::function<bool(uint64_t)> relief) { relief_ = std::move(relief); }
    /** Gives back what reserve() took. */
    void release(uint64_t bytes) noexcept;

    /** What all who use it could come to take, of pages and of indexes beside them: see Claim. */
    uint64_t claimed_pages() const noexcept { return claimed_pages_.load(std::memory_order_relaxed); }
    uint64_t claimed_indexes() const noexcept { return claimed_indexes_.load(std::memory_order_relaxed); }

    uint64_t in_use() const noexcept { return in_use_.load(std::memory_order_relaxed); }
    uint64_t limit() const noexcept { return limit_.load(std::memory_order_relaxed); }
    /** A limit below what is in use takes nothing away: it only refuses more. */
    void set_limit(uint64_t bytes) noexcept { limit_.store(bytes, std::memory_order_relaxed); }

    /** "1000 bytes of the budget ATLAS_KV_RAM=4096 are in use". */
    std::string to_string() const;

private:
    friend class Claim;

    const std::string name_;
    std::function<bool(uint64_t)> relief_;
    std::atomic<uint64_t> limit_;
    std::atomic<uint64_t> in_use_{0};
    std::atomic<uint64_t> claimed_pages_{0}, claimed_indexes_{0};
};

/** Says how many bytes of a budget a cache will take when it is full, and an index of all of it. Takes nothing. The budget outlives it. */
class Claim {
public:
    Claim(Budget& budget, uint64_t pages, uint64_t index) noexcept;
    ~Claim();
    Claim(const Claim&) = delete;
    Claim& operator=(const Claim&) = delete;

private:
    Budget& budget_;
    const uint64_t pages_, index_;
};

}  // namespace atlas::kv
