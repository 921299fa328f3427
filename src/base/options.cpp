#include "base/options.h"

#include <array>
#include <charconv>
#include <cstdlib>
#include <string_view>

namespace atlas {
namespace {

using Getter = std::function<std::optional<std::string>(const char*)>;

/** Collects the first error, so that the parsers below can be called one after another. */
class Parser {
public:
    explicit Parser(const Getter& get) : get_(get) {}

    template <typename T, size_t N>
    void choice(const char* name, const std::array<std::pair<const char*, T>, N>& allowed, T* out) {
        const auto text = get_(name);
        if (!text || text->empty()) return;
        std::string list;
        for (const auto& [word, value] : allowed) {
            if (*text == word) {
                *out = value;
                return;
            }
            list += list.empty() ? word : std::string(", ") + word;
        }
        fail(name, *text, "one of " + list);
    }

    void integer(const char* name, int64_t low, int64_t high, int* out) {
        const auto text = get_(name);
        if (!text || text->empty()) return;
        int64_t value = 0;
        const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
        if (error != std::errc{} || end != text->data() + text->size() || value < low || value > high) {
            fail(name, *text, "a whole number from " + std::to_string(low) + " to " + std::to_string(high));
            return;
        }
        *out = static_cast<int>(value);
    }

    void flag(const char* name, bool* out) { choice(name, std::array{std::pair{"0", false}, std::pair{"1", true}}, out); }

    void bytes(const char* name, uint64_t* out) {
        const auto text = get_(name);
        if (!text || text->empty()) return;
        uint64_t value = 0;
        const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
        const std::string_view suffix(end, static_cast<size_t>(text->data() + text->size() - end));
        int shift = -1;
        if (suffix.empty()) shift = 0;
        if (suffix == "K" || suffix == "k") shift = 10;
        if (suffix == "M" || suffix == "m") shift = 20;
        if (suffix == "G" || suffix == "g") shift = 30;
        if (error != std::errc{} || shift < 0 || value > (UINT64_MAX >> shift)) {
            fail(name, *text, "a number of bytes, with K, M or G behind it if wanted (for example 512M)");
            return;
        }
        *out = value << shift;
    }

    Status status() const { return status_; }

    void fail(const char* name, const std::string& value, const std::string& allowed) {
        if (status_.is_ok()) status_ = Status::invalid_argument(std::string(name) + "=" + value + ": allowed is " + allowed);
    }

private:
    const Getter& get_;
    Status status_;
};

struct Loaded {
    Options options;
    Status status;
};

const Loaded& loaded() {
    static const Loaded instance = [] {
        Loaded result;
        result.status = parse_options(
            [](const char* name) -> std::optional<std::string> {
                const char* value = std::getenv(name);
                return value ? std::optional<std::string>(value) : std::nullopt;
            },
            &result.options);
        return result;
    }();
    return instance;
}

}  // namespace

Status parse_options(const Getter& get, Options* out) {
    Options parsed;
    Parser parser(get);
    parser.choice("ATLAS_DEVICE", std::array{std::pair{"owner", DeviceMode::kOwner}, std::pair{"accel", DeviceMode::kAccel}},
                  &parsed.device);
    bool debug = false;
    parser.flag("ATLAS_DEBUG", &debug);
    if (debug) parsed.log_level = 1;
    parser.choice("ATLAS_LOG_LEVEL",
                  std::array{std::pair{"trace", 0}, std::pair{"debug", 1}, std::pair{"info", 2}, std::pair{"warn", 3},
                             std::pair{"error", 4}, std::pair{"off", 6}},
                  &parsed.log_level);
    using Name = std::string;
    parser.choice("ATLAS_KERNEL",
                  std::array{std::pair<const char*, Name>{"auto", "auto"}, std::pair<const char*, Name>{"reference", "reference"},
                             std::pair<const char*, Name>{"avx2", "avx2"}, std::pair<const char*, Name>{"avx512", "avx512"},
                             std::pair<const char*, Name>{"avx512_bf16", "avx512_bf16"}, std::pair<const char*, Name>{"neon", "neon"}},
                  &parsed.kernel);
    parser.integer("ATLAS_THREADS", 0, 1024, &parsed.threads);
    parser.bytes("ATLAS_KV_RAM", &parsed.kv_ram_bytes);
    parser.flag("ATLAS_PAGE_ALL", &parsed.page_all);
    const Status status = parser.status();
    *out = status.is_ok() ? parsed : Options{};
    return status;
}

const Options& options() { return loaded().options; }
const Status& options_status() { return loaded().status; }

}  // namespace atlas
