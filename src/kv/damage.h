#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"

namespace atlas::kv {

/** Rows of a table that do not hold what their writer meant them to, and why. Not thread-safe. */
class Damage {
public:
    bool empty() const { return ranges_.empty() && !everything_; }
    /** Ok when empty; of several reasons, the first. */
    Status reason() const;
    /** Whether a row of first … end − 1 is damaged. */
    bool overlaps(int64_t first, int64_t end) const;

    /** Without memory for the range, every row counts as damaged. */
    void add(int64_t first, int64_t end, const Status& reason) noexcept;
    /** Rows first … end − 1 were written anew. */
    void remove(int64_t first, int64_t end) noexcept;
    void clear() noexcept;

private:
    struct Range {
        int64_t first, end;
    };
    std::vector<Range> ranges_;  // in order, not empty, without overlap
    bool everything_ = false;
    Status reason_;
};

}  // namespace atlas::kv
