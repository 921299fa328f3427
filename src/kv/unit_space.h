#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <vector>

namespace atlas::kv {

/**
 * Which parts of a file are in use: units of a few sizes, cut from extents of 64 MiB that the file grows by; units that are given back are used again by
 * size. Thread-safe.
 */
class UnitSpace {
public:
    /** `limit` of the file's size in bytes, 0: none. grow(from, bytes): 0 or an errno; it is called with the lock held. */
    UnitSpace(uint64_t limit, std::function<int(uint64_t, uint64_t)> grow) : limit_(limit), grow_(std::move(grow)) {}

    enum class Result { kOk, kLimit, kError };
    /** kError: `error` says why the file does not grow. Throws std::bad_alloc. */
    Result allocate(uint64_t bytes, uint64_t* offset, int* error);
    void release(uint64_t offset, uint64_t bytes) noexcept;
    /** Takes a unit out of use for good: its place in the file is not to be trusted. */
    void retire(uint64_t bytes) noexcept;

    uint64_t in_use() const;
    uint64_t file_bytes() const;
    uint64_t limit() const { return limit_; }

private:
    struct Units {
        std::vector<uint64_t> free;
        uint64_t cut = 0;  ///< made so far; `free` has room for all of them
    };
    const uint64_t limit_;
    const std::function<int(uint64_t, uint64_t)> grow_;
    mutable std::mutex mutex_;  // guards all below
    uint64_t file_bytes_ = 0, used_ = 0, in_use_ = 0, retired_ = 0;
    std::map<uint64_t, Units> units_;
};

}  // namespace atlas::kv
