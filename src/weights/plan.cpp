#include "weights/plan.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>
#include <set>
#include <utility>

#include "base/log.h"

namespace atlas::weights {
namespace {

constexpr size_t kSlabBytes = size_t{32} << 20;

}  // namespace

Plan::Plan(Files files, size_t chunk_bytes, uint64_t pinned_limit)
    : files_(std::move(files)), chunk_bytes_(chunk_bytes), pinned_limit_(pinned_limit) {
    for (const auto& file : files_) not_considered_ += file->bytes();
}

Plan::~Plan() {
    for (const Slab& slab : slabs_) munmap(slab.memory, slab.bytes);
}

Order* Plan::order_of(std::span<const WeightUse> uses) {
    for (const auto& order : orders_) {
        if (std::equal(order->uses.begin(), order->uses.end(), uses.begin(), uses.end())) return order.get();
    }
    auto order = std::make_unique<Order>();
    order->uses.assign(uses.begin(), uses.end());
    for (const WeightUse& use : uses) {
        StreamedWeight* weight = weight_of(use);
        for (int64_t i = 0; i < use.times; ++i) {
            order->weights.push_back(weight);
            if (!weight) continue;
            for (Chunk& chunk : weight->chunks) order->chunks.push_back(&chunk);
        }
    }
    orders_.push_back(std::move(order));
    return orders_.back().get();
}

StreamedWeight* Plan::weight_of(const WeightUse& use) {
    const size_t bytes = static_cast<size_t>(use.rows) * use.row_bytes;
    const auto file =
        std::find_if(files_.begin(), files_.end(), [&](const auto& one) { return one->maps(use.data, bytes); });
    if (file == files_.end()) return nullptr;
    std::unique_ptr<StreamedWeight>& weight = weights_[{use.data, use.rows, use.row_bytes}];
    if (!weight) {
        auto made = std::make_unique<StreamedWeight>();
        made->data = use.data;
        made->bytes = bytes;
        made->chunks = cut(file->get(), (*file)->offset_of(use.data), use.rows, use.row_bytes, chunk_bytes_);
        for (const Chunk& chunk : made->chunks) weight_bytes_ += chunk.bytes;
        if (made->chunks.empty()) {
            log().info(
                "weights: {} rows of {} bytes stay in the mapped file: {} of them are more than the {} of a read",
                use.rows, use.row_bytes, kChunkRows, chunk_bytes_);
        } else {
            (*file)->drop(use.data, bytes);
        }
        weight = std::move(made);
    }
    return weight->chunks.empty() ? nullptr : weight.get();
}

void Plan::pin(Order& order) {
    if (order.settled) return;
    std::vector<Chunk*> chunks;
    uint64_t bytes = 0;
    std::set<StreamedWeight*> seen;
    const auto take = [&](bool considered) {
        for (StreamedWeight* weight : order.weights) {
            if (!weight || weight->considered != considered || !seen.insert(weight).second) continue;
            for (Chunk& chunk : weight->chunks) {
                if (chunk.pinned) continue;
                chunks.push_back(&chunk);
                bytes += chunk.bytes;
            }
        }
    };
    take(false);
    // What has not been used yet may be used by graphs to come, and is left its part. If this one comes again without anything new, it gets what is left.
    const bool again = seen.empty();
    if (again) {
        order.settled = true;
        take(true);
    }
    const uint64_t whole = again ? bytes : std::max(bytes, not_considered_);
    for (StreamedWeight* weight : seen) {
        if (!weight->considered) not_considered_ -= std::min<uint64_t>(not_considered_, weight->bytes);
        weight->considered = true;
    }
    if (chunks.empty()) return;
    const uint64_t room = pinned_limit_ - pinned_bytes_;
    const double share = std::min(1.0, static_cast<double>(room) / static_cast<double>(whole));
    for (Chunk* chunk : choose_pinned(chunks, share, room)) {
        chunk->pinned = take_memory(chunk->bytes);
        pinned_bytes_ += chunk->bytes;
    }
}

std::byte* Plan::take_memory(size_t bytes) {
    if (slabs_.empty() || slab_used_ + bytes > slabs_.back().bytes) {
        const size_t slab_bytes = std::max(kSlabBytes, bytes);
        slabs_.reserve(slabs_.size() + 1);
        void* memory =
            mmap(nullptr, slab_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) throw std::bad_alloc();
        // Only a wish: fewer TLB misses.
        madvise(memory, slab_bytes, MADV_HUGEPAGE);
        slabs_.push_back({static_cast<std::byte*>(memory), slab_bytes});
        slab_used_ = 0;
    }
    std::byte* memory = slabs_.back().memory + slab_used_;
    slab_used_ += bytes;
    return memory;
}

}  // namespace atlas::weights
