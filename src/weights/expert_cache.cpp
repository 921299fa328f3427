#include "weights/expert_cache.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>

#include "io/block_io.h"
#include "weights/reader.h"

namespace atlas::weights {
namespace {

// Of a size: one is used while the next ones are read. Plan leaves experts alone of which so many are too much.
constexpr uint64_t kLeastSlots = 4;

bool is_there(const ExpertPart& part) {
    return std::all_of(part.chunks.begin(), part.chunks.end(), [](const Chunk& chunk) { return Reader::peek(chunk); });
}

}  // namespace

void cut_experts(const ModelFile* file, uint64_t offset, int64_t experts, size_t stride, int64_t rows, size_t row_bytes,
                 size_t most, ExpertMatrix* out) {
    out->bytes = static_cast<size_t>(experts) * stride;
    out->rows = rows;
    out->parts = std::vector<ExpertPart>(static_cast<size_t>(experts));
    out->part_bytes = 0;
    for (size_t i = 0; i < out->parts.size(); ++i) {
        std::vector<Chunk> chunks = cut(file, offset + i * stride, rows, row_bytes, most);
        if (chunks.empty()) {
            out->parts.clear();
            return;
        }
        size_t bytes = 0;
        for (const Chunk& chunk : chunks) bytes += chunk.bytes;
        // Where they begin within a block differs, and with it the bytes that are read.
        out->part_bytes = std::max(out->part_bytes, bytes);
        out->parts[i].chunks = std::move(chunks);
    }
}

ExpertCache::~ExpertCache() {
    for (const Slab& slab : slabs_) munmap(slab.memory, slab.bytes);
}

void ExpertCache::add(ExpertMatrix& matrix, const ExpertMatrix* with) {
    const std::lock_guard lock(mutex_);
    if (with && with->parts.size() == matrix.parts.size()) {
        matrix.first_expert = with->first_expert;
    } else {
        matrix.first_expert = experts_;
        experts_ += matrix.parts.size();
    }
    for (size_t i = 0; i < matrix.parts.size(); ++i) matrix.parts[i].expert = matrix.first_expert + i;
    Slots& slots = slots_[matrix.part_bytes];
    const uint64_t bytes = matrix.part_bytes * matrix.parts.size();
    slots.all_bytes += bytes;
    slots.part_count += matrix.parts.size();
    all_bytes_ += bytes;
    matrices_.push_back(&matrix);
    policy_.resize(experts_, policy_.room());
}

uint64_t ExpertCache::least_bytes() const {
    uint64_t least = 0;
    for (const auto& [bytes, slots] : slots_) least += bytes * std::min(kLeastSlots, slots.part_count);
    return least;
}

void ExpertCache::grow(uint64_t bytes) {
    const std::lock_guard lock(mutex_);
    // Slots never become fewer, so what a size has beyond its share is not there for the others.
    uint64_t left = bytes - std::min(bytes, bytes_);
    for (auto& [size, slots] : slots_) {
        const double share = static_cast<double>(slots.all_bytes) / static_cast<double>(all_bytes_);
        const uint64_t wanted =
            std::min(static_cast<uint64_t>(static_cast<double>(bytes) * share) / size, slots.slot_count + left / size);
        const uint64_t count = std::clamp(wanted, std::min(kLeastSlots, slots.part_count), slots.part_count);
        if (count <= slots.slot_count) continue;
        const size_t more = (count - slots.slot_count) * size;
        slabs_.reserve(slabs_.size() + 1);
        slots.free.reserve(count);
        void* memory = mmap(nullptr, more, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) throw std::bad_alloc();
        madvise(memory, more, MADV_HUGEPAGE);  // only a wish: devices fill large pages at twice the speed of small ones
        slabs_.push_back({static_cast<std::byte*>(memory), more});
        for (uint64_t i = count - slots.slot_count; i > 0; --i)
            slots.free.push_back(slabs_.back().memory + (i - 1) * size);
        slots.slot_count = count;
        bytes_ += more;
        left -= std::min<uint64_t>(left, more);
    }
    policy_.resize(experts_, all_bytes_ > 0
                                 ? static_cast<size_t>(static_cast<double>(experts_) * static_cast<double>(bytes_) /
                                                       static_cast<double>(all_bytes_))
                                 : 0);
}

void ExpertCache::begin(int64_t tokens) {
    const std::lock_guard lock(mutex_);
    for (const Wish& wish : wanted_) let_go(*wish.matrix, *wish.part);
    for (ExpertMatrix* matrix : matrices_) matrix->order.clear();
    wanted_.clear();
    queue_.clear();
    policy_.advance(tokens);
    if (policy_.followed() != sorted_by_) sort_anew();
}

/** Another rate is followed: ranks of all change. */
void ExpertCache::sort_anew() {
    sorted_by_ = policy_.followed();
    for (auto& [bytes, slots] : slots_) {
        std::set<std::pair<double, ExpertPart*>> sorted;
        for (const auto& [rank, part] : slots.leaving) {
            part->rank = policy_.rank(part->expert);
            sorted.emplace(part->rank, part);
        }
        slots.leaving.swap(sorted);
    }
}

void ExpertCache::let_go(ExpertMatrix& matrix, ExpertPart& part) {
    if (!part.wanted) return;
    part.wanted = false;
    part.rank = policy_.rank(part.expert);
    slots_[matrix.part_bytes].leaving.emplace(part.rank, &part);
}

void ExpertCache::want(ExpertMatrix& matrix, std::span<const int32_t> experts, std::span<const int64_t> columns,
                       std::span<ExpertMatrix* const> later) {
    const std::lock_guard lock(mutex_);
    // Said already with the first product of the same choice.
    if (is_ordered(matrix, experts)) return;
    withdraw(matrix);
    for (size_t i = 0; i < experts.size(); ++i)
        policy_.choose(matrix.first_expert + static_cast<size_t>(experts[i]), static_cast<double>(columns[i]));
    enqueue(matrix, experts);
    for (ExpertMatrix* other : later) {
        if (other->order.empty()) enqueue(*other, experts);
    }
    serve();
}

bool ExpertCache::is_ordered(const ExpertMatrix& matrix, std::span<const int32_t> experts) {
    if (matrix.order.size() != experts.size()) return false;
    sorted_.assign(matrix.order.begin(), matrix.order.end());
    std::sort(sorted_.begin(), sorted_.end());
    return std::equal(sorted_.begin(), sorted_.end(), experts.begin());
}

/** Others than what was said are to be used. */
void ExpertCache::withdraw(ExpertMatrix& matrix) {
    if (matrix.order.empty()) return;
    matrix.order.clear();
    const auto is_its = [&](const Wish& wish) { return wish.matrix == &matrix; };
    std::erase_if(queue_, is_its);
    for (const Wish& wish : wanted_) {
        if (is_its(wish)) let_go(matrix, *wish.part);
    }
    std::erase_if(wanted_, is_its);
}

/** In its order those come first that are there: they are multiplied with while the others are read. */
void ExpertCache::enqueue(ExpertMatrix& matrix, std::span<const int32_t> experts) {
    matrix.order.assign(experts.begin(), experts.end());
    const auto missing = std::stable_partition(matrix.order.begin(), matrix.order.end(), [&](int32_t expert) {
        return is_there(matrix.parts[static_cast<size_t>(expert)]);
    });
    const auto hits = static_cast<uint64_t>(missing - matrix.order.begin());
    hits_ += hits;
    misses_ += matrix.order.size() - hits;
    for (const int32_t expert : matrix.order) {
        ExpertPart& part = matrix.parts[static_cast<size_t>(expert)];
        part.rows_left.store(matrix.rows, std::memory_order_relaxed);
        queue_.push_back({&matrix, &part});
    }
}

/** Gives slots to those that are wanted next, as many as there are, and has them read. */
void ExpertCache::serve() {
    to_read_.clear();
    while (!queue_.empty()) {
        const Wish wish = queue_.front();
        ExpertPart& part = *wish.part;
        Slots& slots = slots_[wish.matrix->part_bytes];
        wanted_.reserve(wanted_.size() + 1);
        if (part.slot) {
            slots.leaving.erase({part.rank, &part});
        } else if (!take_slot(slots, part)) {
            break;
        }
        part.wanted = true;
        wanted_.push_back(wish);
        queue_.pop_front();
        for (Chunk& chunk : part.chunks) {
            if (Reader::peek(chunk)) continue;
            // A read of it may be under way for an earlier graph, or have failed.
            to_read_.push_back(&chunk);
            read_bytes_ += chunk.bytes;
        }
    }
    if (!to_read_.empty()) reader_->read_now(to_read_);
}

bool ExpertCache::take_slot(Slots& slots, ExpertPart& part) {
    if (slots.free.empty()) {
        // Those of which a read is under way, for a graph that ended early, keep their slots until it ends.
        const auto found = std::find_if(slots.leaving.begin(), slots.leaving.end(),
                                        [&](const auto& one) { return reader_->release(one.second->chunks); });
        if (found == slots.leaving.end()) return false;
        slots.free.push_back(std::exchange(found->second->slot, nullptr));
        slots.leaving.erase(found);
        ++evictions_;
    }
    part.slot = slots.free.back();
    slots.free.pop_back();
    reader_->give(part.chunks, part.slot);
    return true;
}

void ExpertCache::done(ExpertMatrix& matrix, ExpertPart& part, int64_t rows) {
    if (part.rows_left.fetch_sub(rows, std::memory_order_acq_rel) != rows) return;
    const std::lock_guard lock(mutex_);
    const auto found =
        std::find_if(wanted_.begin(), wanted_.end(), [&](const Wish& wish) { return wish.part == &part; });
    if (found != wanted_.end()) {
        *found = wanted_.back();
        wanted_.pop_back();
    }
    let_go(matrix, part);
    if (!queue_.empty()) serve();
}

ExpertStats ExpertCache::full_stats() const noexcept {
    ExpertStats stats = this->stats();
    const std::lock_guard lock(mutex_);
    try {
        stats.most_hits = policy_.most_hits();
    } catch (const std::bad_alloc&) {
        stats.most_hits = 0;  // as where nobody knows
    }
    return stats;
}

ExpertStats ExpertCache::stats() const {
    const std::lock_guard lock(mutex_);
    ExpertStats stats;
    stats.bytes = bytes_;
    stats.all_bytes = all_bytes_;
    stats.hits = hits_;
    stats.misses = misses_;
    stats.read_bytes = read_bytes_;
    stats.evictions = evictions_;
    stats.choices = policy_.choices();
    for (size_t i = 0; i < ExpertPolicy::kRates; ++i) stats.shadow_hits[i] = policy_.shadow_hits(i);
    stats.followed = policy_.followed();
    return stats;
}

}  // namespace atlas::weights
