#pragma once

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>

namespace atlas::tool {

/** Progress on standard error: a bar on a terminal, a line every ten percent elsewhere. */
class Bar {
public:
    Bar(std::string name, int64_t total)
        : name_(std::move(name)), total_(std::max<int64_t>(1, total)), terminal_(isatty(2) != 0) {}

    void advance(const std::string& what, int64_t amount) {
        done_ += amount;
        const int percent = static_cast<int>(std::min<int64_t>(100, done_ * 100 / total_));
        if (terminal_) {
            const std::string filled(static_cast<size_t>(percent / 4), '#');
            std::fprintf(stderr, "\r%-20s [%-25s] %3d %%  %-24s", name_.c_str(), filled.c_str(), percent, what.c_str());
        } else if (percent / 10 > shown_) {
            shown_ = percent / 10;
            std::fprintf(stderr, "%s: %d %% (%s)\n", name_.c_str(), percent, what.c_str());
        }
    }

    void end() const {
        if (terminal_) std::fputc('\n', stderr);
    }

private:
    std::string name_;
    int64_t total_, done_ = 0;
    bool terminal_;
    int shown_ = 0;
};

}  // namespace atlas::tool
