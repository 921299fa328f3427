#include "weights/plan.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>
#include <set>
#include <utility>

#include "base/log.h"

namespace atlas::weights {
namespace {

// What a cache of experts has slots for at least: four matrices of each size, of which there are two where down is of another type.
constexpr uint64_t kLeastParts = 8;
constexpr size_t kSlabBytes = size_t{32} << 20;

}  // namespace

Plan::Plan(Files files, size_t chunk_bytes, uint64_t pinned_limit, ExpertCache& experts)
    : files_(std::move(files)), chunk_bytes_(chunk_bytes), pinned_limit_(pinned_limit), experts_(experts) {
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
        if (use.experts > 0) {
            ExpertMatrix* matrix = experts_of(use, *order);
            order->experts.push_back({matrix, use});
            if (matrix) order->token_bytes += static_cast<uint64_t>(use.chosen) * matrix->part_bytes;
            continue;
        }
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

ExpertMatrix* Plan::experts_of(const WeightUse& use, const Order& order) {
    const size_t bytes = static_cast<size_t>(use.experts) * use.expert_stride;
    const auto file =
        std::find_if(files_.begin(), files_.end(), [&](const auto& one) { return one->maps(use.data, bytes); });
    if (file == files_.end()) return nullptr;
    std::unique_ptr<ExpertMatrix>& matrix = expert_matrices_[{use.data, use.rows, use.row_bytes}];
    if (!matrix) {
        auto made = std::make_unique<ExpertMatrix>();
        made->data = use.data;
        cut_experts(file->get(), (*file)->offset_of(use.data), use.experts, use.expert_stride, use.rows, use.row_bytes,
                    chunk_bytes_, made.get());
        if (made->parts.empty()) {
            log().info(
                "weights: experts with rows of {} bytes stay in the mapped file: {} of them are more than the {} "
                "of a read",
                use.row_bytes, kChunkRows, chunk_bytes_);
        } else if (kLeastParts * made->part_bytes > pinned_limit_) {
            if (!std::exchange(said_few_, true))
                log().warn(
                    "weights: experts stay in the mapped file: {} of their matrices, of {} bytes each, do not fit into "
                    "the {} bytes for weights that stay",
                    kLeastParts, made->part_bytes, pinned_limit_);
            made->parts.clear();
        } else {
            const bool follows = !order.experts.empty() && order.experts.back().use.choice == use.choice;
            experts_.add(*made, follows ? order.experts.back().matrix : nullptr);
            (*file)->drop(use.data, bytes);
        }
        matrix = std::move(made);
    }
    return matrix->parts.empty() ? nullptr : matrix.get();
}

void Plan::pin(Order& order) {
    if (order.settled) return;
    bool new_experts = false;
    for (const Order::Experts& use : order.experts) {
        if (!use.matrix || std::exchange(use.matrix->considered, true)) continue;
        new_experts = true;
        not_considered_ -= std::min<uint64_t>(not_considered_, use.matrix->bytes);
    }
    // A byte of a dense weight saves one of each token; one of experts that are chosen now and then less. Some slots there must be.
    const uint64_t least = experts_.empty() ? 0 : std::max(experts_.least_bytes(), experts_.bytes());
    const uint64_t room = pinned_limit_ - std::min(pinned_limit_, pinned_bytes_ + least);
    bool again = false;
    pin_dense(order, room, &again);
    again = again && !new_experts;
    order.settled = again;
    if (!experts_.empty()) give_experts(order, again);
}

void Plan::give_experts(Order& order, bool again) {
    const uint64_t left = pinned_limit_ - std::min(pinned_limit_, pinned_bytes_);
    // What graphs have not used yet may be weights, and is left its part until one comes again.
    const double share =
        again ? 1.0
              : static_cast<double>(experts_.all_bytes()) / static_cast<double>(experts_.all_bytes() + not_considered_);
    experts_.grow(static_cast<uint64_t>(static_cast<double>(left) * share));
    if (again && order.token_bytes > experts_.bytes() && !std::exchange(said_few_, true))
        log().warn(
            "weights: {} bytes are left for experts, fewer than the {} that one token uses: most are read for "
            "each token",
            experts_.bytes(), order.token_bytes);
}

void Plan::pin_dense(Order& order, uint64_t room, bool* again_out) {
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
    *again_out = again;
    if (again) take(true);
    const uint64_t whole = again ? bytes : std::max(bytes, not_considered_);
    for (StreamedWeight* weight : seen) {
        if (!weight->considered) not_considered_ -= std::min<uint64_t>(not_considered_, weight->bytes);
        weight->considered = true;
    }
    if (chunks.empty()) return;
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
