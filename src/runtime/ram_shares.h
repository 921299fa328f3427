#pragma once

#include <cstdint>
#include <mutex>
#include <string>

#include "kv/budget.h"
#include "kv/pager.h"
#include "runtime/pools.h"
#include "runtime/ram_split.h"
#include "weights/streamer.h"

namespace atlas::runtime {

/**
 * Keeps the streamer of weights and the budget of KV caches within one number of bytes, ATLAS_RAM: looks before each graph whether models or caches came,
 * went or grew, and splits it anew then. Thread-safe.
 */
class RamShares {
public:
    /** What is settled. `pager` may be null; all outlive this. */
    struct Parts {
        const kv::Budget& budget;
        Pools& pools;
        kv::Pager* pager;
        weights::Streamer& streamer;
    };
    /** `name`: the number as the user wrote it. `indexed`: whether caches are to have indexes. */
    RamShares(uint64_t ram, std::string name, bool indexed, const Parts& parts)
        : ram_(ram), name_(std::move(name)), indexed_(indexed), parts_(parts) {}

    /**
     * Before a graph that writes so many bytes into caches. Where the split changes, waits for graphs of other contexts that stream weights, and for the disk
     * where pages have to leave memory for it. Throws std::bad_alloc.
     */
    void settle(uint64_t writes);

    /** Of the last graph. */
    struct State {
        RamNeeds needs;
        RamSplit split;
        uint64_t splits = 0;  ///< how often it changed
    };
    State state() const;
    /** {"limit": …, "weights": …, "weights_needed": …, "kv": …, "kv_limit": …, "kv_needed": …, "splits": …}: bytes. */
    std::string json() const;

private:
    RamNeeds needs(uint64_t writes) const;
    void apply(const RamSplit& split);
    void say(const State& now, bool anew);

    const uint64_t ram_;
    const std::string name_;
    const bool indexed_;
    const Parts parts_;

    std::mutex mutex_;  // held while it is settled; guards what follows
    bool warned_ = false;

    mutable std::mutex state_mutex_;  // guards what follows; taken after mutex_
    State state_;
};

}  // namespace atlas::runtime
