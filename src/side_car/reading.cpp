#include "side_car/reading.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <memory>
#include <utility>

#include "base/option_words.h"
#include "gguf/printable.h"
#include "gguf/reader.h"
#include "memory/deep_memory.h"
#include "memory/feature_map.h"
#include "side_car/checksum.h"
#include "side_car/format.h"
#include "side_car/threshold_tensors.h"

namespace atlas::side_car {
namespace {

using attention::InitialMemory;
using memory::CorrectorState;

/** Takes keys out of a file; the first error stays. */
class Keys {
public:
    explicit Keys(const gguf::Metadata& file) : file_(file) {}

    const Status& status() const { return status_; }

    template <typename T>
    T get(const char* name, const char* kind) {
        const auto found = file_.keys.find(name);
        if (found == file_.keys.end()) {
            fail(std::string("no key '") + name + "'");
        } else if (const T* value = std::get_if<T>(&found->second)) {
            return *value;
        } else {
            fail(std::string("key '") + name + "' is not " + kind);
        }
        return {};
    }

    int64_t whole(const char* name, int64_t low, int64_t high) {
        const auto value = get<int64_t>(name, "a whole number");
        if (value < low || value > high)
            fail(std::string(name) + " = " + std::to_string(value) + ", allowed is " + std::to_string(low) + " to " +
                 std::to_string(high));
        return value;
    }

    double real(const char* name, double low, double high) {
        const auto value = get<double>(name, "a number");
        if (!(value >= low && value <= high)) {
            char text[120];
            std::snprintf(text, sizeof text, "%s = %g, allowed is %g to %g", name, value, low, high);
            fail(text);
        }
        return value;
    }

    template <typename T, size_t N>
    T word(const char* name, const std::array<std::pair<const char*, T>, N>& words) {
        const auto text = get<std::string>(name, "a text");
        std::string allowed;
        for (const auto& [word, value] : words) {
            if (text == word) return value;
            allowed += (allowed.empty() ? "" : ", ") + std::string(word);
        }
        fail(std::string(name) + " = '" + gguf::printable(text, 40) + "', allowed is one of " + allowed);
        return words.front().second;
    }

    void fail(const std::string& what) {
        if (status_.is_ok()) status_ = Status::corrupt(file_.shown + ": " + what);
    }

private:
    const gguf::Metadata& file_;
    Status status_;
};

/** Stored as f32: 0.1 is to be 0.1 again. */
double rounded(double value) { return std::round(value * 1e6) / 1e6; }

Status read_keys(const gguf::Metadata& file, SideCar* out) {
    Keys keys(file);
    if (!file.keys.contains("atlas.version"))
        return Status::corrupt(file.shown + ": a GGUF file, but not a side-car: it has no key 'atlas.version'");
    const auto version = keys.get<int64_t>("atlas.version", "a whole number");
    if (keys.status().is_ok() && version != kSideCarVersion)
        keys.fail("side-car version " + std::to_string(version) + ", this library reads version " +
                  std::to_string(kSideCarVersion));
    if (!keys.status().is_ok()) return keys.status();
    out->enabled = keys.get<bool>("atlas.enabled", "a truth value");
    const auto fingerprint = keys.get<std::string>("atlas.model.fingerprint", "a text");
    const auto [end, error] =
        std::from_chars(fingerprint.data(), fingerprint.data() + fingerprint.size(), out->fingerprint, 16);
    if (fingerprint.size() != 16 || error != std::errc{} || end != fingerprint.data() + fingerprint.size())
        keys.fail("atlas.model.fingerprint = '" + gguf::printable(fingerprint, 40) + "', not 16 hexadecimal digits");
    MemoryOptions& options = out->options;
    options.kind = keys.word("atlas.memory_kind", option_words<FarMemoryKind>());
    options.features = keys.word("atlas.feature_type", option_words<MemoryFeatures>());
    options.degree = static_cast<int>(keys.whole("atlas.feature_degree", 1, 3));
    out->seed = static_cast<uint64_t>(keys.whole("atlas.feature_seed", 0, INT32_MAX));
    const bool hidden = options.kind == FarMemoryKind::kDeep || options.kind == FarMemoryKind::kGated;
    const int64_t dim = keys.whole("atlas.memory_dim", 1, hidden ? 1024 : 65536);
    if (hidden) options.hidden = static_cast<int>(dim);
    const bool least_squares = options.kind == FarMemoryKind::kLeastSquares;
    const int64_t window = keys.whole("atlas.window_size", least_squares ? 0 : 1, 4096);
    const double alpha = keys.real("atlas.omega_alpha", 0, 1);
    const int64_t iterations = keys.whole("atlas.muon_iterations", 0, 64);
    if (!least_squares) {
        options.omega_window = static_cast<int>(window);
        options.omega_alpha = rounded(alpha);
        options.muon_iterations = static_cast<int>(iterations);
    }
    options.blend_ratio = rounded(keys.real("atlas.blend_ratio", 0, 1));
    out->layer_count = static_cast<int>(keys.whole("atlas.layer_count", 1, 4096));
    const auto list = [&](const char* name) { return keys.get<std::vector<int64_t>>(name, "a list of whole numbers"); };
    const auto index = list("atlas.layer.index");
    const auto heads = list("atlas.layer.kv_heads");
    const auto d_k = list("atlas.layer.key_length");
    const auto d_v = list("atlas.layer.value_length");
    if (keys.status().is_ok() &&
        (heads.size() != index.size() || d_k.size() != index.size() || d_v.size() != index.size()))
        keys.fail("the lists atlas.layer.* have " + std::to_string(index.size()) + ", " + std::to_string(heads.size()) +
                  ", " + std::to_string(d_k.size()) + " and " + std::to_string(d_v.size()) + " entries");
    if (!keys.status().is_ok()) return keys.status();
    for (size_t i = 0; i < index.size(); ++i) {
        const int64_t before = i == 0 ? -1 : index[i - 1];
        if (index[i] <= before || index[i] >= out->layer_count || heads[i] < 1 || heads[i] > 4096 || d_k[i] < 1 ||
            d_k[i] > 4096 || d_v[i] < 1 || d_v[i] > 4096) {
            keys.fail("geometry of layer " + std::to_string(index[i]) + ": " + std::to_string(heads[i]) +
                      " KV heads of " + std::to_string(d_k[i]) + " and " + std::to_string(d_v[i]) + " elements, in " +
                      std::to_string(out->layer_count) + " layers");
            break;
        }
        out->layers.push_back({static_cast<int>(index[i]), heads[i], d_k[i], d_v[i]});
    }
    if (!keys.status().is_ok()) return keys.status();
    // For people only: nothing depends on them.
    const auto text = [&](const char* name) {
        const auto found = file.keys.find(name);
        const auto* value = found == file.keys.end() ? nullptr : std::get_if<std::string>(&found->second);
        return value ? *value : std::string();
    };
    const auto number = [&](const char* name) {
        const auto found = file.keys.find(name);
        const auto* value = found == file.keys.end() ? nullptr : std::get_if<int64_t>(&found->second);
        return value ? *value : int64_t{0};
    };
    out->origin = {text("atlas.model.name"),
                   text("atlas.calibration.planner"),
                   number("atlas.calibration.context"),
                   number("atlas.calibration.documents"),
                   number("atlas.calibration.held_out"),
                   number("atlas.calibration.observations")};
    return Status::ok();
}

bool same_shape(std::vector<int64_t> a, std::vector<int64_t> b) {
    a.resize(std::max(a.size(), b.size()), 1);
    b.resize(a.size(), 1);
    return a == b;
}

std::string shape_text(const std::vector<int64_t>& shape) {
    std::string text;
    for (const int64_t size : shape) text += (text.empty() ? "" : " x ") + std::to_string(size);
    return text.empty() ? "1" : text;
}

/** All shapes are held against the file before the first number is read. */
Status read_parts(const gguf::Metadata& file, int64_t heads, Checksum* checksum, std::vector<Part>* parts) {
    for (const Part& part : *parts) {
        const std::vector<int64_t> due = part.shape_of(heads);
        const auto found = file.tensors.find(part.name);
        if (found == file.tensors.end()) return Status::corrupt(file.shown + ": no tensor '" + part.name + "'");
        if (!same_shape(due, found->second.shape))
            return Status::corrupt(file.shown + ": tensor '" + part.name + "' is " + shape_text(found->second.shape) +
                                   ", due is " + shape_text(due));
    }
    for (Part& part : *parts) {
        const auto due = part.elements() * static_cast<size_t>(part.per_head ? heads : 1);
        if (Status status = gguf::read_f32(file, part.name, due, &part.data); !status.is_ok()) return status;
        checksum->add(part.data);
    }
    return Status::ok();
}

/** Whether the memories that the keys announce can lie in the file, and in `most_bytes`; asked before anything of their size is made. */
Status check_sizes(const gguf::Metadata& file, const SideCar& side_car, uint64_t most_bytes) {
    constexpr uint64_t kHeadBytes = 256;  // what a head has besides
    uint64_t sum = 0;                     // at most 4096 layers of 4096 heads of some 2^28 numbers: no overflow
    for (const SideCarLayer& layer : side_car.layers) {
        const memory::CorrectorConfig config =
            attention::corrector_config(side_car.options, layer.d_k, layer.d_v, side_car.seed);
        if (Status status = memory::check_corrector(config); !status.is_ok())
            return Status::corrupt(file.shown + ": layer " + std::to_string(layer.layer) + ": " + status.message());
        const LayerFormat format = format_of(side_car.options, side_car.seed, layer);
        const uint64_t heads = static_cast<uint64_t>(layer.n_head_kv);
        const uint64_t numbers = heads * (format.weights() + format.momentum());
        if (numbers > file.bytes / sizeof(float))
            return Status::corrupt(file.shown + ": layer " + std::to_string(layer.layer) + " has " +
                                   std::to_string(numbers) + " numbers, the file " + std::to_string(file.bytes) +
                                   " bytes");
        sum += numbers * sizeof(float) + heads * kHeadBytes;
    }
    if (sum <= most_bytes) return Status::ok();
    return Status::invalid_argument(file.shown + ": memories of " + std::to_string(sum) +
                                    " bytes, allowed is ATLAS_MEMORY_BUDGET=" + std::to_string(most_bytes));
}

Status read_layer(const gguf::Metadata& file, const SideCarLayer& layer, Checksum* checksum, SideCar* out) {
    const LayerFormat format = format_of(out->options, out->seed, layer);
    const memory::CorrectorConfig& config = format.config;
    std::vector<Part> parts = format.parts(layer.layer);
    if (Status status = read_parts(file, layer.n_head_kv, checksum, &parts); !status.is_ok()) return status;
    const memory::FeatureMap map(config.memory.features);
    for (const Part& part : parts) {
        if (part.per_head) continue;
        const auto made = part.name.find("phases") != std::string::npos ? map.phases() : map.weights();
        for (size_t i = 0; i < part.data.size(); ++i) {
            if (std::abs(part.data[i] - made[i]) > 1e-5f)
                return Status::corrupt(file.shown + ": tensor '" + part.name + "': element " + std::to_string(i) +
                                       " is " + std::to_string(part.data[i]) + ", seed " + std::to_string(out->seed) +
                                       " gives " + std::to_string(made[i]));
        }
    }
    for (int64_t head = 0; head < layer.n_head_kv; ++head) {
        const auto at = static_cast<size_t>(head);
        const auto value = [&](const char* name) { return find_part(parts, name)->data[at]; };
        const auto wrong = [&](const char* name, const char* allowed) {
            return Status::corrupt(file.shown + ": " + name + "." + std::to_string(layer.layer) + " of head " +
                                   std::to_string(head) + " is " + std::to_string(value(name)) + ", allowed is " +
                                   allowed);
        };
        const float use = value("atlas.memory.use");
        if (use != 0.0f && use != 1.0f && use != 2.0f && use != 3.0f) return wrong("atlas.memory.use", "0, 1, 2 or 3");
        if (!(std::abs(value("atlas.memory.mass_bias")) <= 20.0f)) return wrong("atlas.memory.mass_bias", "-20 to 20");
        if (value("atlas.memory.residual") != 0.0f) return wrong("atlas.memory.residual", "0");
        InitialMemory initial;
        initial.far = use != static_cast<float>(kDropped);
        initial.enabled = use == static_cast<float>(kEmpty) || use == static_cast<float>(kCalibrated);
        initial.mass_bias = value("atlas.memory.mass_bias");
        if (use == static_cast<float>(kCalibrated)) {
            const float gate = value("atlas.memory.gate");
            if (!(gate >= 0.0f && gate <= 1.0f)) return wrong("atlas.memory.gate", "0 to 1");
            if (!(value("atlas.memory.scale") > 0.0f)) return wrong("atlas.memory.scale", "above 0");
            auto state = std::make_shared<CorrectorState>();
            state->weights.resize(format.weights());
            state->momentum.resize(format.momentum());
            state->gate = static_cast<double>(gate);
            state->scale = static_cast<double>(value("atlas.memory.scale"));
            const float* evidence = find_part(parts, "atlas.memory.evidence")->data.data() + 5 * at;
            std::copy_n(evidence, 5, state->evidence.begin());
            walk_state(format, parts, at, [&](float& from, std::vector<float> CorrectorState::* to, size_t i) {
                ((*state).*to)[i] = from;
            });
            if (format.has_coefficients) {
                const Part& weights = *find_part(parts, "atlas.feature.weights");
                const float* first = weights.data.data() + at * weights.elements();
                state->coefficients.assign(first, first + weights.elements());
            }
            initial.state = std::move(state);
        }
        out->memories[{layer.layer, head}] = std::move(initial);
    }
    return Status::ok();
}

}  // namespace

Status read_side_car(const std::string& path, uint64_t most_bytes, SideCar* out) {
    gguf::Metadata file;
    if (Status status = gguf::read(path, &file); !status.is_ok()) return status;
    SideCar read;
    if (Status status = read_keys(file, &read); !status.is_ok()) return status;
    if (Status status = check_sizes(file, read, most_bytes); !status.is_ok()) return status;
    Checksum checksum;
    for (const SideCarLayer& layer : read.layers) {
        if (Status status = read_layer(file, layer, &checksum, &read); !status.is_ok()) return status;
    }
    if (Status status = read_thresholds(file, &checksum, &read.thresholds); !status.is_ok()) return status;
    const auto written = file.keys.find("atlas.checksum");
    if (written == file.keys.end() || written->second != gguf::Value(checksum.text()))
        return Status::corrupt(file.shown + ": atlas.checksum is not that of the tensors, " + checksum.text());
    *out = std::move(read);
    return Status::ok();
}

}  // namespace atlas::side_car
