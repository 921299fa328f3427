#pragma once

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace atlas::eval {

/** SplitMix64: the same numbers everywhere, which the standard library's distributions do not promise. */
class Random {
public:
    /** One stream per purpose: `name` is mixed into the seed (FNV-1a), so that adding a task changes no other task's documents. */
    Random(uint64_t seed, std::string_view name) : state_(0xcbf29ce484222325u ^ seed) {
        for (const char c : name) state_ = (state_ ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
    }

    uint64_t next() {
        uint64_t z = state_ += 0x9e3779b97f4a7c15u;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }

    /** 0 … n−1. The bias of the remainder is below n / 2^64. */
    size_t below(size_t n) { return static_cast<size_t>(next() % n); }
    /** In [0, 1). */
    double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }

    template <typename T>
    const T& pick(const std::vector<T>& from) {
        return from[below(from.size())];
    }

    template <typename T>
    void shuffle(std::vector<T>* items) {
        for (size_t i = items->size(); i > 1; --i) std::swap((*items)[i - 1], (*items)[below(i)]);
    }

private:
    uint64_t state_;
};

}  // namespace atlas::eval
