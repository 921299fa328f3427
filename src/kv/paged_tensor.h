#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "base/status.h"
#include "kv/page_arena.h"

namespace atlas::kv {

/** Rows (cells) per page. Equal to the kernels' block of keys, so that a page of a cache tensor is one block. */
inline constexpr int64_t kPageRows = 64;
/** Pages whose writes are also counted together. */
inline constexpr int64_t kChunkPages = 64;

/**
 * A tensor whose bytes live in pages of kPageRows consecutive rows. Byte offsets are those of the dense tensor. Pages come into
 * being at their first write; what was never written reads as zero. Reads and writes of disjoint ranges may run at the same time.
 */
class PagedTensor {
public:
    /** `row_bytes` · `rows` bytes; `arena` outlives the tensor. */
    PagedTensor(PageArena& arena, size_t row_bytes, int64_t rows);
    ~PagedTensor();
    PagedTensor(const PagedTensor&) = delete;
    PagedTensor& operator=(const PagedTensor&) = delete;

    size_t row_bytes() const { return row_bytes_; }
    int64_t rows() const { return rows_; }
    size_t bytes() const { return row_bytes_ * static_cast<size_t>(rows_); }
    size_t page_bytes() const { return page_bytes_; }

    /** Copies bytes out; offset + bytes must lie inside the tensor. */
    void read(size_t offset, void* destination, size_t bytes) const;
    /** Copies bytes in. Errors: out of memory; what was written before the error stays. */
    Status write(size_t offset, const void* source, size_t bytes);
    /**
     * As write(), but a page that has these bytes already keeps its version, or stays unmade where they are zeros: a shift of positions goes
     * over every cell of a cache, and most of them may be empty or another sequence's.
     */
    Status update(size_t offset, const void* source, size_t bytes);
    Status fill(size_t offset, uint8_t value, size_t bytes);
    /** Whether no page of the range has come into being: all of it is zero. */
    bool is_unmade(size_t offset, size_t bytes) const;
    /** Makes the whole tensor zero and gives its pages back. */
    void clear();

    /** Memory of a page for reading: its bytes, or a shared page of zeros. Valid until clear(). */
    const std::byte* page(int64_t index) const {
        const std::byte* memory = pages_[static_cast<size_t>(index)].load(std::memory_order_acquire);
        return memory ? memory : zeros_.data();
    }
    /** Memory at a byte offset for writing; the caller stays inside that page. Errors: out of memory. */
    Status writable(size_t offset, std::byte** memory);

    /** Changes whenever page() of some index gives another address than before. */
    uint64_t layout() const { return layout_.load(std::memory_order_acquire); }

    /** Grows with every write, so that what is derived from the contents can tell that it is stale. */
    uint64_t generation() const { return generation_.load(std::memory_order_relaxed); }
    /** Changes whenever a page is written by any path (rows, set_tensor, memset, clear); what is derived from a page compares it. */
    uint32_t page_version(int64_t index) const {
        return versions_[static_cast<size_t>(index)].load(std::memory_order_relaxed);
    }
    /** Changes whenever a page in kChunkPages·chunk … is written: looking here first saves looking at each. */
    uint32_t chunk_version(int64_t chunk) const {
        return chunk_versions_[static_cast<size_t>(chunk)].load(std::memory_order_relaxed);
    }
    /** Value of the process's write clock at the page's last write: larger is more recent. */
    uint32_t page_epoch(int64_t index) const {
        return epochs_[static_cast<size_t>(index)].load(std::memory_order_relaxed);
    }
    /** Advances the write clock; called between groups of writes that count as simultaneous (one graph). */
    static void advance_epoch() { clock_.fetch_add(1, std::memory_order_relaxed); }
    /** A number that no other tensor of this process has or had. */
    uint64_t id() const { return id_; }

private:
    template <typename Visit>
    Status for_each_page(size_t offset, size_t bytes, Visit visit) const;

    PageArena& arena_;
    const size_t row_bytes_;
    const int64_t rows_;
    const size_t page_bytes_;
    std::mutex allocation_;  // guards the change of a page from nothing to memory
    std::vector<std::atomic<std::byte*>> pages_;
    std::vector<std::byte> zeros_;
    std::atomic<uint64_t> generation_{0};
    std::atomic<uint64_t> layout_{0};
    void stamp(size_t index) {
        versions_[index].fetch_add(1, std::memory_order_relaxed);
        chunk_versions_[index / kChunkPages].fetch_add(1, std::memory_order_relaxed);
        epochs_[index].store(clock_.load(std::memory_order_relaxed), std::memory_order_relaxed);
    }
    std::vector<std::atomic<uint32_t>> versions_;
    std::vector<std::atomic<uint32_t>> chunk_versions_;
    std::vector<std::atomic<uint32_t>> epochs_;
    const uint64_t id_;
    static std::atomic<uint32_t> clock_;
    static std::atomic<uint64_t> next_id_;
};

}  // namespace atlas::kv
