#pragma once

#include <cstddef>

namespace atlas::test {

/**
 * While it lives, operator new of the whole program throws std::bad_alloc once more than `most` bytes would be in use beyond what was before, and
 * peak() says how far it came. One at a time.
 */
class AllocationLimit {
public:
    explicit AllocationLimit(size_t most);
    ~AllocationLimit();
    AllocationLimit(const AllocationLimit&) = delete;
    AllocationLimit& operator=(const AllocationLimit&) = delete;

    /** Bytes in use at once, beyond what was before; a refused request counts too. */
    size_t peak() const;
};

}  // namespace atlas::test
