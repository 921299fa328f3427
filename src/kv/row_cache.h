#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace atlas::kv {

class Pager;
class RamTier;

/**
 * Rows of single keys in RAM, K and V of one KV head side by side: what selection read of pages that are on disk. Memory comes in frames of a page's size from
 * the tier of these pages, and so counts in its budget. Where there is no more, the rows that were read least of late leave, whosever they are.
 *
 * All calls, the end too, are made holding the pager's mutex (Pager::exclusive()).
 */
class RowCache {
public:
    static constexpr uint32_t kNone = ~uint32_t{0};

    /** Whose rows these are. Places are the owner's numbers of its rows. */
    class Owner {
    public:
        virtual void row_left(uint32_t place) noexcept = 0;
        virtual void row_moved(uint32_t place, uint32_t slot) noexcept = 0;

    protected:
        ~Owner() = default;
    };

    /** `frame_bytes`: of the pages whose memory frames take; not smaller than a row. Pager and tier outlive the cache. Throws std::bad_alloc. */
    RowCache(Pager& pager, RamTier& tier, size_t row_bytes, size_t frame_bytes);
    /** Nothing may be pinned. */
    ~RowCache();
    RowCache(const RowCache&) = delete;
    RowCache& operator=(const RowCache&) = delete;

    /** Throws std::bad_alloc. */
    uint16_t enter(Owner* owner);
    /** Whoever leaves has dropped its rows. */
    void leave(uint16_t owner) noexcept;

    std::byte* row(uint32_t slot) const { return frames_[slot / per_frame_] + slot % per_frame_ * row_bytes_; }
    /** A slot for a row of an owner, pinned; kNone: there is no room and every row is pinned. Other rows may move or leave. Throws std::bad_alloc. */
    uint32_t take(uint16_t owner, uint32_t place);
    /** The row is read: it is pinned once more. */
    void use(uint32_t slot);
    void unpin(uint32_t slot) noexcept { --rows_[slot].pins; }
    bool is_pinned(uint32_t slot) const { return rows_[slot].pins > 0; }
    /** Ends a row, pinned or not, of which its owner knows already. */
    void drop(uint32_t slot) noexcept;
    /** To be called once for all rows that are read at a time, of one owner. */
    void advance();

    /** Gives memory back to the tier, `bytes` of it if rows that are not pinned have so much. Whether any came back. Throws std::bad_alloc. */
    bool give_back(uint64_t bytes);
    /** Gives frames back that hold no row. */
    void trim() noexcept;
    uint64_t bytes() const;
    size_t rows() const { return rows_.size() - free_.size() - dead_; }

private:
    struct Row {
        double rank = 0.0;  // larger: leaves later
        uint32_t place = 0;
        uint16_t owner = kFree;
        uint16_t pins = 0;
    };
    static constexpr uint16_t kFree = 0xFFFF;
    /** A frame more; `idle`: only where pages that nobody uses make room for it. */
    bool grow(bool idle);
    size_t evict(size_t count);
    void free_frame(size_t frame) noexcept;
    size_t used_of(size_t frame, bool* pinned) const;

    Pager& pager_;
    RamTier& tier_;
    const size_t row_bytes_, frame_bytes_, per_frame_;
    std::vector<Owner*> owners_;  // nullptr: left
    size_t n_owners_ = 0;
    double now_ = 0.0;
    std::vector<std::byte*> frames_;  // nullptr: given back, its slots are dead
    std::vector<Row> rows_;           // per slot
    std::vector<uint32_t> free_;      // slots; has room for all of them
    size_t dead_ = 0;                 // slots without memory
    std::vector<std::pair<double, uint32_t>> ranks_;
};

}  // namespace atlas::kv
