#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <vector>

#include "base/status.h"

namespace atlas::kv {

/**
 * RAM for pages: slabs of 4 MiB (huge pages where the kernel gives them) cut into pages, returned pages reused by size. A budget
 * bounds the bytes handed out by all arenas of a process together. Thread-safe.
 */
class PageArena {
public:
    PageArena() = default;
    ~PageArena();
    PageArena(const PageArena&) = delete;
    PageArena& operator=(const PageArena&) = delete;

    /** A zeroed page of `bytes` bytes, 64-byte aligned. Errors: out of memory, naming budget and use. May throw std::bad_alloc for the message only. */
    Status allocate(size_t bytes, std::byte** page);
    /** Gives a page of `bytes` bytes, as asked of allocate(), back. */
    void release(std::byte* page, size_t bytes) noexcept;

    /** Bytes in pages handed out by all arenas of the process. */
    static uint64_t bytes_in_use();
    /** Budget of all arenas together; 0 = none. Taken from Options::kv_ram_bytes at start. */
    static void set_budget(uint64_t bytes);
    static uint64_t budget();

private:
    struct Slab {
        std::byte* memory;
        size_t bytes;
    };
    struct Pages {
        std::vector<std::byte*> free;
        size_t cut = 0;  ///< made so far; `free` has room for all of them
    };
    std::byte* cut(size_t bytes);

    std::mutex mutex_;  // guards all below
    std::vector<Slab> slabs_;
    size_t slab_used_ = 0;
    std::map<size_t, Pages> pages_;  // by size
};

}  // namespace atlas::kv
