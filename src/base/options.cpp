#include "base/options.h"

#include <array>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "base/option_words.h"

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

    void real(const char* name, double low, double high, double* out) {
        const auto text = get_(name);
        if (!text || text->empty()) return;
        double value = 0;
        const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
        // Written so that NaN is outside.
        if (error != std::errc{} || end != text->data() + text->size() || !(value >= low && value <= high)) {
            char range[64];
            std::snprintf(range, sizeof range, "a number from %g to %g", low, high);
            fail(name, *text, range);
            return;
        }
        *out = value;
    }

    void text(const char* name, std::string* out) {
        if (const auto value = get_(name)) *out = *value;
    }

    void flag(const char* name, bool* out) {
        choice(name, std::array{std::pair{"0", false}, std::pair{"1", true}}, out);
    }

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

    /** The text of a variable that is set, else empty. */
    std::string given(const char* name) const { return get_(name).value_or(std::string()); }

    Status status() const { return status_; }

    void fail(const char* name, const std::string& value, const std::string& allowed) {
        if (status_.is_ok())
            status_ = Status::invalid_argument(std::string(name) + "=" + value + ": allowed is " + allowed);
    }

private:
    const Getter& get_;
    Status status_;
};

void parse_sparse(Parser& parser, SparseOptions* out) {
    constexpr int64_t kMost = int64_t{1} << 30;
    parser.choice("ATLAS_MODE",
                  std::array{std::pair{"exact", AttentionMode::kExact}, std::pair{"window", AttentionMode::kWindow},
                             std::pair{"sparse", AttentionMode::kSparse}},
                  &out->mode);
    parser.choice("ATLAS_FAR", kFarEstimateWords, &out->estimate);
    parser.choice("ATLAS_BLOCK", std::array{std::pair{"16", 16}, std::pair{"32", 32}, std::pair{"64", 64}},
                  &out->block_keys);
    parser.integer("ATLAS_THRESHOLD", 0, kMost, &out->threshold);
    parser.integer("ATLAS_SINKS", 0, 1 << 20, &out->sinks);
    parser.integer("ATLAS_WINDOW", 0, kMost, &out->window);
    parser.real("ATLAS_BLOCK_SHARE", 0, 1, &out->block_share);
    parser.real("ATLAS_BUDGET", 0, 1, &out->fraction);
    parser.integer("ATLAS_BUDGET_FLOOR", 0, kMost, &out->floor);
    parser.integer("ATLAS_BUDGET_CAP", 0, kMost, &out->cap);
    parser.real("ATLAS_EPSILON", 0, 1, &out->epsilon);
    parser.flag("ATLAS_ALIKE", &out->alike);
    parser.flag("ATLAS_VALUE_SLOPE", &out->value_slope);
    parser.real("ATLAS_REACH_SHARE", 0, 1, &out->reach_share);
    parser.integer("ATLAS_FIRST_LAYERS", 0, 1024, &out->first_layers);
    parser.real("ATLAS_FIRST_FACTOR", 1, 100, &out->first_factor);
    parser.integer("ATLAS_TILE", 1, 512, &out->tile);
    parser.integer("ATLAS_BEAM", 64, 1 << 20, &out->beam);
    parser.integer("ATLAS_PROBES", 0, 64, &out->probes);
    parser.real("ATLAS_PROBE_LIMIT", 0, 100, &out->probe_limit);
    parser.integer("ATLAS_SEED", 0, INT32_MAX, &out->seed);
    parser.text("ATLAS_STATS", &out->stats);
}

void parse_memory(Parser& parser, MemoryOptions* out) {
    constexpr int64_t kMost = int64_t{1} << 30;
    parser.flag("ATLAS_MEMORY", &out->enabled);
    parser.choice("ATLAS_MEMORY_MODE",
                  std::array{std::pair{"correct", MemoryMode::kCorrect}, std::pair{"blend", MemoryMode::kBlend}},
                  &out->mode);
    if (out->mode == MemoryMode::kBlend) {
        out->blend_ratio = 0.1;
        out->kind = FarMemoryKind::kDeep;
        out->chunk = 64;
    }
    parser.real("ATLAS_BLEND_RATIO", 0, 1, &out->blend_ratio);
    parser.flag("ATLAS_BLEND_DYNAMIC", &out->dynamic_blend);
    parser.integer("ATLAS_WARM_UP", 0, kMost, &out->warm_up);
    parser.flag("ATLAS_TEST_TIME", &out->test_time);
    parser.bytes("ATLAS_MEMORY_BUDGET", &out->budget_bytes);
    parser.choice("ATLAS_MEMORY_KIND", kFarMemoryKindWords, &out->kind);
    parser.choice("ATLAS_FEATURE_TYPE", kMemoryFeatureWords, &out->features);
    parser.integer("ATLAS_FEATURE_DEGREE", 1, 3, &out->degree);
    parser.integer("ATLAS_MEMORY_HIDDEN", 1, 1024, &out->hidden);
    parser.integer("ATLAS_OMEGA_WINDOW", 1, 4096, &out->omega_window);
    parser.real("ATLAS_OMEGA_ALPHA", 0, 1, &out->omega_alpha);
    parser.integer("ATLAS_MUON_ITERATIONS", 0, 64, &out->muon_iterations);
    parser.choice("ATLAS_MEMORY_PRECISION", std::array{std::pair{"f32", false}, std::pair{"bf16", true}}, &out->bf16);
    parser.real("ATLAS_MEMORY_STEP", 0, 1000, &out->step);
    parser.integer("ATLAS_MEMORY_CHUNK", 1, 4096, &out->chunk);
    parser.flag("ATLAS_ADAPTIVE_WINDOW", &out->adaptive_window);
    parser.integer("ATLAS_MEMORY_PROBE", 1, 1 << 20, &out->probe_every);
    parser.integer("ATLAS_MEMORY_PROBE_KEYS", 0, kMost, &out->probe_keys);
}

/** Values that are allowed one by one, but not together. */
void check_together(Parser& parser, Options* out) {
    SparseOptions& sparse = out->sparse;
    if (sparse.floor > sparse.cap) {
        const std::string floor = parser.given("ATLAS_BUDGET_FLOOR");
        const std::string cap = parser.given("ATLAS_BUDGET_CAP");
        if (!floor.empty() && !cap.empty()) parser.fail("ATLAS_BUDGET_FLOOR", floor, "at most ATLAS_BUDGET_CAP=" + cap);
        // Only one was chosen: the other's default follows it.
        (cap.empty() ? sparse.cap : sparse.floor) = cap.empty() ? sparse.floor : sparse.cap;
    }
    const std::string mode = parser.given("ATLAS_MODE");
    if (out->device == DeviceMode::kAccel) {
        // Only pages know when they were written, and only their memory is counted.
        if (sparse.mode != AttentionMode::kExact) parser.fail("ATLAS_MODE", mode, "exact with ATLAS_DEVICE=accel");
        if (out->kv_ram_bytes > 0)
            parser.fail("ATLAS_KV_RAM", parser.given("ATLAS_KV_RAM"), "0 with ATLAS_DEVICE=accel");
    }
    // A plain blend also goes with the window alone: the mission's first form.
    const bool windowed = sparse.mode == AttentionMode::kWindow && out->memory.mode == MemoryMode::kBlend;
    if (out->memory.enabled && parser.given("ATLAS_MEMORY") == "1" && !mode.empty() &&
        sparse.mode != AttentionMode::kSparse && !windowed)
        parser.fail("ATLAS_MEMORY", "1", "0 with ATLAS_MODE=" + mode);
}

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
    parser.choice("ATLAS_DEVICE",
                  std::array{std::pair{"owner", DeviceMode::kOwner}, std::pair{"accel", DeviceMode::kAccel}},
                  &parsed.device);
    bool debug = false;
    parser.flag("ATLAS_DEBUG", &debug);
    if (debug) parsed.log_level = 1;
    parser.choice("ATLAS_LOG_LEVEL",
                  std::array{std::pair{"trace", 0}, std::pair{"debug", 1}, std::pair{"info", 2}, std::pair{"warn", 3},
                             std::pair{"error", 4}, std::pair{"off", 6}},
                  &parsed.log_level);
    using Name = std::string;
    parser.choice(
        "ATLAS_KERNEL",
        std::array{std::pair<const char*, Name>{"auto", "auto"}, std::pair<const char*, Name>{"reference", "reference"},
                   std::pair<const char*, Name>{"avx2", "avx2"}, std::pair<const char*, Name>{"avx512", "avx512"},
                   std::pair<const char*, Name>{"avx512_bf16", "avx512_bf16"},
                   std::pair<const char*, Name>{"neon", "neon"}},
        &parsed.kernel);
    parser.integer("ATLAS_THREADS", 0, 1024, &parsed.threads);
    parser.bytes("ATLAS_KV_RAM", &parsed.kv_ram_bytes);
    parser.flag("ATLAS_PAGE_ALL", &parsed.page_all);
    parse_sparse(parser, &parsed.sparse);
    parse_memory(parser, &parsed.memory);
    parser.text("ATLAS_SIDE_CAR", &parsed.side_car);
    parser.text("ATLAS_MODEL", &parsed.model);
    if (parsed.side_car == "none") parsed.side_car.clear();
    const auto memory = get("ATLAS_MEMORY");
    if (!parsed.side_car.empty() && (!memory || memory->empty())) parsed.memory.enabled = true;
    check_together(parser, &parsed);
    const Status status = parser.status();
    *out = status.is_ok() ? parsed : Options{};
    return status;
}

const Options& options() { return loaded().options; }
const Status& options_status() { return loaded().status; }

}  // namespace atlas
