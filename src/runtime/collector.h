#pragma once

#include <array>
#include <cstddef>
#include <span>

namespace atlas::runtime {

class Session;

/**
 * Notes which sessions are synchronised, on the thread that made it, while it lives. A host's call that synchronises all backends of one
 * context so tells which sessions that context has. Collectors of one thread nest; the innermost notes.
 */
class Collector {
public:
    Collector();
    ~Collector();
    Collector(const Collector&) = delete;
    Collector& operator=(const Collector&) = delete;

    /** To be called when `session`'s backend is synchronised. Does nothing when this thread has no collector. */
    static void reached(Session& session) noexcept;

    /** Those reached, each once, in order. More than kMost are not kept. */
    std::span<Session* const> sessions() const { return {sessions_.data(), count_}; }

    static constexpr size_t kMost = 16;  ///< contexts have one session per device of ours, and there is one device

private:
    std::array<Session*, kMost> sessions_{};
    size_t count_ = 0;
    Collector* outer_;
};

}  // namespace atlas::runtime
