#include "runtime/ram_shares.h"

#include "base/log.h"

namespace atlas::runtime {

RamNeeds RamShares::needs(uint64_t writes) const {
    RamNeeds needs;
    needs.ram = ram_;
    needs.weights = parts_.streamer.mapped_bytes();
    needs.index = indexed_ ? parts_.budget.claimed_indexes() : 0;
    needs.kv = parts_.budget.claimed_pages() + needs.index;
    needs.held = parts_.budget.in_use();
    needs.writes = writes;
    needs.disk = parts_.pager != nullptr;
    return needs;
}

void RamShares::settle(uint64_t writes) {
    const std::lock_guard lock(mutex_);
    State now = state();
    const RamNeeds before = now.needs;
    now.needs = needs(writes);
    const bool anew = now.splits == 0 || before.weights != now.needs.weights || before.kv != now.needs.kv;
    if (!anew && has_room(now.split, now.needs)) return;
    const RamSplit split = split_ram(now.needs);
    if (!anew && split == now.split) return;
    now.split = split;
    ++now.splits;
    {
        const std::lock_guard state_lock(state_mutex_);
        state_ = now;
    }
    apply(split);
    say(now, anew);
}

void RamShares::apply(const RamSplit& split) {
    parts_.pools.set_own_limit(split.kv_limit);
    // What does not leave now does when the next page needs its room.
    if (parts_.pager && parts_.budget.in_use() > parts_.budget.limit()) (void)parts_.pager->make_room(0);
    parts_.streamer.set_ram(split.weights);
}

void RamShares::say(const State& now, bool anew) {
    const bool is_less = now.split.weights < now.needs.weights || now.split.kv_limit < now.needs.kv;
    if (anew) warned_ = false;
    const std::string text = words_of(now.split, now.needs, name_);
    // Once for each set of models and caches; then it is known, and gets more.
    if (is_less && !std::exchange(warned_, true)) {
        log().warn("{}", text);
    } else {
        log().info("{}", text);
    }
}

RamShares::State RamShares::state() const {
    const std::lock_guard lock(state_mutex_);
    return state_;
}

std::string RamShares::json() const {
    const State now = state();
    std::string text = "{\"limit\": " + std::to_string(ram_);
    const auto add = [&](const char* name, uint64_t value) {
        text += std::string(", \"") + name + "\": " + std::to_string(value);
    };
    add("weights", now.split.weights);
    add("weights_needed", now.needs.weights);
    add("kv", now.split.kv);
    add("kv_limit", now.split.kv_limit);
    add("kv_needed", now.needs.kv);
    add("splits", now.splits);
    return text + "}";
}

}  // namespace atlas::runtime
