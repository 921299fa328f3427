#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "io/block_io.h"

namespace atlas::io {

/**
 * What several file layers have under way on one disk, so that the more urgent transfers come first: the KV cache's reads and those of weights go through
 * layers of their own, with threads of their own, and a device serves what it was given in no particular order. So what is less urgent is not given to it
 * while more urgent transfers are under way, of whichever layer, but for kBeside per layer and urgency: nothing stands still, and what was thought to
 * be needed later is perhaps waited for by now. Held transfers of a layer start in their order, with the next call of that layer.
 *
 * Thread-safe; the layers are as thread-safe as any.
 */
class DiskQueue {
public:
    static constexpr int kBeside = 2;

    /** `io` as a part of this queue. Throws std::bad_alloc. */
    static std::unique_ptr<BlockIo> share(std::shared_ptr<DiskQueue> queue, std::unique_ptr<BlockIo> io);

    /** Whether transfers of this urgency may start without a limit. */
    bool is_free_for(Urgency urgency) const {
        for (size_t i = 0; i < static_cast<size_t>(urgency); ++i) {
            if (under_way_[i].load(std::memory_order_relaxed) > 0) return false;
        }
        return true;
    }
    /** Of this urgency, of all layers. */
    int under_way(Urgency urgency) const {
        return under_way_[static_cast<size_t>(urgency)].load(std::memory_order_relaxed);
    }
    /** {"now": transfers so far, "soon": …, "later": …, "held": those that did not start at once}. */
    std::string json() const;

private:
    class Layer;
    std::array<std::atomic<int>, kUrgencies> under_way_{};
    std::array<std::atomic<uint64_t>, kUrgencies> started_{};
    std::atomic<uint64_t> held_{0};
};

}  // namespace atlas::io
