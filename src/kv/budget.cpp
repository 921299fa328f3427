#include "kv/budget.h"

namespace atlas::kv {

bool Budget::reserve(uint64_t bytes) noexcept {
    uint64_t before = in_use();
    do {
        // Written so that no sum overflows.
        const uint64_t most = limit();
        if (most != 0 && (bytes > most || before > most - bytes)) return false;
    } while (!in_use_.compare_exchange_weak(before, before + bytes, std::memory_order_relaxed));
    return true;
}

bool Budget::reserve_or_relieve(uint64_t bytes) {
    return reserve(bytes) || (relief_ && relief_(bytes) && reserve(bytes));
}

void Budget::release(uint64_t bytes) noexcept { in_use_.fetch_sub(bytes, std::memory_order_relaxed); }

Claim::Claim(Budget& budget, uint64_t pages, uint64_t index) noexcept : budget_(budget), pages_(pages), index_(index) {
    budget_.claimed_pages_.fetch_add(pages_, std::memory_order_relaxed);
    budget_.claimed_indexes_.fetch_add(index_, std::memory_order_relaxed);
}

Claim::~Claim() {
    budget_.claimed_pages_.fetch_sub(pages_, std::memory_order_relaxed);
    budget_.claimed_indexes_.fetch_sub(index_, std::memory_order_relaxed);
}

std::string Budget::to_string() const {
    return std::to_string(in_use()) + " bytes of the budget " + name_ + "=" + std::to_string(limit()) + " are in use";
}

}  // namespace atlas::kv
