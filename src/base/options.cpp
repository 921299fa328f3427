#include "base/options.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <numeric>

#include "base/levels.h"

namespace atlas {
namespace {

// One type per kind of row: what is allowed, reading and writing.

struct Flag {
    std::string allowed() const { return "one of 0, 1"; }
    bool read(const std::string& text, bool* out) const {
        *out = text == "1";
        return *out || text == "0";
    }
    std::string write(bool value) const { return value ? "1" : "0"; }
};

struct Integer {
    int64_t low, high;
    std::string allowed() const { return "a whole number from " + std::to_string(low) + " to " + std::to_string(high); }
    bool read(const std::string& text, int* out) const {
        int64_t value = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
        if (error != std::errc{} || end != text.data() + text.size() || value < low || value > high) return false;
        *out = static_cast<int>(value);
        return true;
    }
    std::string write(int value) const { return std::to_string(value); }
};

struct Real {
    double low, high;
    std::string allowed() const { return "a number from " + write(low) + " to " + write(high); }
    bool read(const std::string& text, double* out) const {
        double value = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
        // Written so that NaN is outside.
        if (error != std::errc{} || end != text.data() + text.size() || !(value >= low && value <= high)) return false;
        *out = value;
        return true;
    }
    std::string write(double value) const {
        char text[32];
        // As people write it, 0.0001 and not 1e-04, unless that would be long.
        const bool short_enough = value == 0.0 || std::abs(value) >= 1e-6;
        const auto [end, error] = std::to_chars(text, text + sizeof text, value,
                                                short_enough ? std::chars_format::fixed : std::chars_format::general);
        return {text, end};
    }
};

struct Bytes {
    std::string allowed() const { return "a number of bytes, with K, M or G behind it if wanted (for example 512M)"; }
    bool read(const std::string& text, uint64_t* out) const {
        uint64_t value = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
        const std::string_view suffix(end, static_cast<size_t>(text.data() + text.size() - end));
        int shift = -1;
        if (suffix.empty()) shift = 0;
        if (suffix == "K" || suffix == "k") shift = 10;
        if (suffix == "M" || suffix == "m") shift = 20;
        if (suffix == "G" || suffix == "g") shift = 30;
        if (error != std::errc{} || shift < 0 || value > (UINT64_MAX >> shift)) return false;
        *out = value << shift;
        return true;
    }
    std::string write(uint64_t value) const {
        for (const auto& [suffix, shift] : {std::pair{"G", 30}, {"M", 20}, {"K", 10}}) {
            if (value > 0 && value % (uint64_t{1} << shift) == 0) return std::to_string(value >> shift) + suffix;
        }
        return std::to_string(value);
    }
};

std::string one_of(const std::vector<std::string>& words) {
    return std::accumulate(words.begin(), words.end(), std::string(), [](std::string list, const std::string& word) {
        return std::move(list) + (list.empty() ? "one of " : ", ") + word;
    });
}

struct OneOf {
    std::vector<int> numbers;
    std::string allowed() const {
        std::vector<std::string> words;
        for (const int number : numbers) words.push_back(std::to_string(number));
        return one_of(words);
    }
    bool read(const std::string& text, int* out) const {
        int value = 0;
        if (!Integer{0, INT32_MAX}.read(text, &value) ||
            std::find(numbers.begin(), numbers.end(), value) == numbers.end())
            return false;
        *out = value;
        return true;
    }
    std::string write(int value) const { return std::to_string(value); }
};

struct Word {
    std::vector<std::string> words;
    std::string allowed() const { return one_of(words); }
    bool read(const std::string& text, std::string* out) const {
        if (std::find(words.begin(), words.end(), text) == words.end()) return false;
        *out = text;
        return true;
    }
    std::string write(const std::string& value) const { return value; }
};

template <typename Enum>
struct Choice {
    std::string allowed() const { return one_of({kOptionWords<Enum>.begin(), kOptionWords<Enum>.end()}); }
    bool read(const std::string& text, Enum* out) const {
        for (const auto& [word, value] : option_words<Enum>()) {
            if (text != word) continue;
            *out = value;
            return true;
        }
        return false;
    }
    std::string write(Enum value) const { return word_of(value); }
};

struct Text {
    std::string allowed() const { return "any text"; }
    bool read(const std::string& text, std::string* out) const {
        *out = text;
        return true;
    }
    std::string write(const std::string& value) const { return value; }
};

struct Row {
    const char* name;
    bool (*read)(Options&, const std::string& text);
    void (*copy)(Options& to, const Options& from);
    std::string (*write)(const Options&);
    std::string (*allowed)();
    const char* load_only;  // why; nullptr: a context may have its own value
};

// clang-format off
#define FLAG Flag{}
#define INTEGER(low, high) Integer{low, high}
#define REAL(low, high) Real{low, high}
#define ONE_OF(...) OneOf{{__VA_ARGS__}}
#define BYTES Bytes{}
#define CHOICE(Enum, ...) Choice<Enum>{}
#define WORD(...) Word{{__VA_ARGS__}}
#define TEXT(what) Text{}
#define TEXT_OR_1(what) Text{}
#define CONTEXT nullptr
#define LOAD(why) why
// clang-format on
#define ATLAS_GROUP_process
#define ATLAS_GROUP_sparse sparse.
#define ATLAS_GROUP_memory memory.
#define ATLAS_OPTION(group, field, name, type, initial, audience, when, help)                                    \
    Row{name,                                                                                                    \
        [](Options& o, const std::string& text) { return type.read(text, &o.ATLAS_GROUP_##group field); },       \
        [](Options& to, const Options& from) { to.ATLAS_GROUP_##group field = from.ATLAS_GROUP_##group field; }, \
        [](const Options& o) { return type.write(o.ATLAS_GROUP_##group field); },                                \
        [] { return type.allowed(); },                                                                           \
        when},

const Row kRows[] = {
#include "base/options.def"
};
static_assert(std::size(kRows) <= decltype(Options::given)().size());

constexpr size_t kNone = std::size(kRows);

size_t row_of(std::string_view name) {
    return static_cast<size_t>(
        std::find_if(std::begin(kRows), std::end(kRows), [&](const Row& row) { return name == row.name; }) -
        std::begin(kRows));
}

/** How many letters have to be changed, added or taken away. */
size_t distance(std::string_view a, std::string_view b) {
    std::vector<size_t> costs(b.size() + 1);
    std::iota(costs.begin(), costs.end(), size_t{0});
    for (size_t i = 0; i < a.size(); ++i) {
        size_t diagonal = costs[0]++;
        for (size_t j = 0; j < b.size(); ++j) {
            const size_t changed = diagonal + (a[i] != b[j]);
            diagonal = costs[j + 1];
            costs[j + 1] = std::min({changed, costs[j] + 1, costs[j + 1] + 1});
        }
    }
    return costs.back();
}

std::string no_such_option(std::string_view name) {
    const auto* nearest = std::min_element(std::begin(kRows), std::end(kRows), [&](const Row& a, const Row& b) {
        return distance(name, a.name) < distance(name, b.name);
    });
    std::string text = std::string(name) + " is no option of Atlas";
    // Two slips of the fingers, not another word.
    if (distance(name, nearest->name) <= 2) text += "; did you mean " + std::string(nearest->name) + "?";
    return text;
}

Status not_allowed(const std::string& name, const std::string& value, const std::string& allowed) {
    return Status::invalid_argument(name + "=" + value + ": allowed is " + allowed);
}

/** What was asked for; what follows from it and whether it fits together. */
class Settling {
public:
    explicit Settling(const Options& asked) : asked_(asked), out_(asked) {}

    Status run(Options* out) {
        follow();
        if (Status status = check(); !status.is_ok()) return status;
        *out = out_;
        return Status::ok();
    }

private:
    bool given(const char* name) const { return is_given(asked_, name); }
    std::string text(const char* name) const { return kRows[row_of(name)].write(asked_); }

    void follow() {
        if (out_.debug && !given("ATLAS_LOG_LEVEL")) out_.log_level = LogLevel::kDebug;
        if (out_.stats == "0") out_.stats.clear();
        if (out_.stats == "1" && !given("ATLAS_LOG_LEVEL")) out_.log_level = std::min(out_.log_level, LogLevel::kInfo);
        if (out_.log_level == LogLevel::kVerbose) out_.log_level = LogLevel::kDebug;
        if (given("ATLAS_LEVEL")) follow_level();
        if (out_.side_car == "none") out_.side_car.clear();
        MemoryOptions& memory = out_.memory;
        if (!out_.side_car.empty() && !given("ATLAS_MEMORY")) memory.enabled = true;
        if (memory.mode == MemoryMode::kBlend) {
            if (!given("ATLAS_BLEND_RATIO")) memory.blend_ratio = 0.1;
            if (!given("ATLAS_MEMORY_KIND")) memory.kind = FarMemoryKind::kDeep;
            if (!given("ATLAS_MEMORY_CHUNK")) memory.chunk = 64;
        }
        // Of floor and budget, one that was not chosen follows the other.
        SparseOptions& sparse = out_.sparse;
        if (!given("ATLAS_BUDGET")) sparse.budget = std::max(sparse.budget, sparse.floor);
        if (!given("ATLAS_BUDGET_FLOOR")) sparse.floor = std::min(sparse.floor, sparse.budget);
    }

    /** What was set by name stays. */
    void follow_level() {
        const bool sparse = out_.level >= levels::kSparse && out_.device == DeviceMode::kOwner;
        const bool memory = sparse && out_.level >= levels::kMemory;
        if (!given("ATLAS_WEIGHTS"))
            out_.weights = out_.level >= levels::kWeights ? WeightsMode::kOwn : WeightsMode::kHost;
        if (!given("ATLAS_MODE")) out_.sparse.mode = sparse ? AttentionMode::kSparse : AttentionMode::kExact;
        if (!memory || out_.sparse.mode != AttentionMode::kSparse) return;
        if (!given("ATLAS_MEMORY")) out_.memory.enabled = true;
        if (!given("ATLAS_BUDGET")) out_.sparse.budget /= levels::kMemoryDivides;
        if (!given("ATLAS_THRESHOLD")) out_.sparse.threshold /= levels::kMemoryDivides;
    }

    Status check() const {
        const std::string mode = text("ATLAS_MODE");
        if (out_.sparse.floor > out_.sparse.budget)
            return not_allowed("ATLAS_BUDGET_FLOOR", text("ATLAS_BUDGET_FLOOR"),
                               "at most ATLAS_BUDGET=" + text("ATLAS_BUDGET"));
        if (out_.device == DeviceMode::kAccel) {
            // Only pages know when they were written, and only their memory is counted.
            if (out_.sparse.mode != AttentionMode::kExact)
                return not_allowed("ATLAS_MODE", mode, "exact with ATLAS_DEVICE=accel");
            if (given("ATLAS_LEVEL") && !given("ATLAS_MODE") && out_.level >= levels::kSparse)
                return not_allowed("ATLAS_LEVEL", text("ATLAS_LEVEL"), "less than 1 with ATLAS_DEVICE=accel");
            if (out_.kv_ram_bytes > 0)
                return not_allowed("ATLAS_KV_RAM", text("ATLAS_KV_RAM"), "0 with ATLAS_DEVICE=accel");
            if (out_.weights_ram_bytes > 0)
                return not_allowed("ATLAS_WEIGHTS_RAM", text("ATLAS_WEIGHTS_RAM"), "0 with ATLAS_DEVICE=accel");
            if (out_.ram_bytes > 0) return not_allowed("ATLAS_RAM", text("ATLAS_RAM"), "0 with ATLAS_DEVICE=accel");
        }
        if (Status status = check_ram(); !status.is_ok()) return status;
        if (!out_.weight_format.empty() && out_.weight_format != "native") {
            // Only mapped weights in Atlas's hands are rounded; streamed ones are read as the file has them.
            const char* without = out_.device == DeviceMode::kAccel    ? "ATLAS_DEVICE=accel"
                                  : out_.weights == WeightsMode::kHost ? "ATLAS_WEIGHTS=host"
                                  : out_.weights_ram_bytes > 0         ? "ATLAS_WEIGHTS_RAM"
                                  : out_.ram_bytes > 0                 ? "ATLAS_RAM"
                                                                       : nullptr;
            if (without)
                return not_allowed("ATLAS_WEIGHT_FORMAT", out_.weight_format, std::string("native with ") + without);
        } else if (!out_.weight_cache.empty() && out_.weight_cache != "0") {
            return not_allowed("ATLAS_WEIGHT_CACHE", out_.weight_cache, "0 without an ATLAS_WEIGHT_FORMAT");
        }
        // A plain blend also goes with the window alone: the mission's first form.
        const bool windowed = out_.sparse.mode == AttentionMode::kWindow && out_.memory.mode == MemoryMode::kBlend;
        if (out_.memory.enabled && given("ATLAS_MEMORY") && given("ATLAS_MODE") &&
            out_.sparse.mode != AttentionMode::kSparse && !windowed)
            return not_allowed("ATLAS_MEMORY", "1", "0 with ATLAS_MODE=" + mode);
        return Status::ok();
    }

    /** One number for all, or one for weights and one for the KV cache. */
    Status check_ram() const {
        if (out_.ram_bytes > 0) {
            for (const char* part : {"ATLAS_KV_RAM", "ATLAS_WEIGHTS_RAM"}) {
                if (text(part) != "0")
                    return not_allowed("ATLAS_RAM", text("ATLAS_RAM"),
                                       std::string("0 with ") + part + "=" + text(part));
            }
            if (out_.weights == WeightsMode::kHost)
                return not_allowed("ATLAS_RAM", text("ATLAS_RAM"), "0 with ATLAS_WEIGHTS=host");
        }
        if (out_.weights_ram_bytes > 0 && out_.weights == WeightsMode::kHost)
            return not_allowed("ATLAS_WEIGHTS_RAM", text("ATLAS_WEIGHTS_RAM"), "0 with ATLAS_WEIGHTS=host");
        if (!out_.kv_disk.empty() && out_.kv_ram_bytes == 0 && out_.ram_bytes == 0)
            return not_allowed("ATLAS_KV_DISK", out_.kv_disk,
                               "none without ATLAS_KV_RAM or ATLAS_RAM, beyond which pages go there");
        return Status::ok();
    }

    const Options& asked_;
    Options out_;
};

/** Variables that begin like ours and are read by the launcher, by ./dev and by tests. */
bool is_elsewhere(std::string_view name) {
    constexpr std::string_view kNames[] = {"ATLAS_LIBRARY", "ATLAS_SANITIZER_PRELOAD"};
    return name.starts_with("ATLAS_DEV_") || std::find(std::begin(kNames), std::end(kNames), name) != std::end(kNames);
}

}  // namespace

Status set_option(Options& options, std::string_view name, const std::string& text) {
    const size_t at = row_of(name);
    if (at == kNone) return Status::invalid_argument(no_such_option(name));
    const Row& row = kRows[at];
    if (text.empty()) {
        row.copy(options, Options{});
    } else if (!row.read(options, text)) {
        return not_allowed(row.name, text, row.allowed());
    }
    options.given[at] = !text.empty();
    return Status::ok();
}

Status get_option(const Options& options, std::string_view name, std::string* text) {
    const size_t at = row_of(name);
    if (at == kNone) return Status::invalid_argument(no_such_option(name));
    *text = kRows[at].write(options);
    return Status::ok();
}

Status check_context_option(std::string_view name) {
    const size_t at = row_of(name);
    if (at == kNone) return Status::invalid_argument(no_such_option(name));
    if (!kRows[at].load_only) return Status::ok();
    return Status::unsupported(std::string(name) + " counts only when the library is loaded: " + kRows[at].load_only);
}

Options asked_of(const Options& settled) {
    Options asked;
    for (size_t at = 0; at < kNone; ++at) {
        if (settled.given[at]) kRows[at].copy(asked, settled);
    }
    asked.given = settled.given;
    return asked;
}

void take_option(Options& to, const Options& from, std::string_view name) {
    const size_t at = row_of(name);
    if (at == kNone) return;
    kRows[at].copy(to, from);
    to.given[at] = from.given[at];
}

bool is_given(const Options& options, std::string_view name) {
    const size_t at = row_of(name);
    return at != kNone && options.given[at];
}

Status settle_options(const Options& asked, Options* out) { return Settling(asked).run(out); }

Status parse_options(const std::function<std::optional<std::string>(const char*)>& get, Options* out) {
    Options asked;
    Status status;
    for (const Row& row : kRows) {
        const std::optional<std::string> text = get(row.name);
        if (text && status.is_ok()) status = set_option(asked, row.name, *text);
    }
    *out = {};
    return status.is_ok() ? settle_options(asked, out) : status;
}

Status read_environment(Options* out, std::vector<std::string>* unknown) {
    for (char** variable = environ; unknown && variable && *variable; ++variable) {
        const std::string_view entry(*variable);
        const std::string_view name = entry.substr(0, entry.find('='));
        if (name.starts_with("ATLAS_") && row_of(name) == kNone && !is_elsewhere(name))
            unknown->push_back(no_such_option(name));
    }
    return parse_options(
        [](const char* name) -> std::optional<std::string> {
            const char* value = std::getenv(name);
            return value ? std::optional<std::string>(value) : std::nullopt;
        },
        out);
}

}  // namespace atlas
