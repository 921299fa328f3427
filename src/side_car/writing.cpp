#include "side_car/writing.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <utility>

#include "base/option_words.h"
#include "gguf/fingerprint.h"
#include "gguf/printable.h"
#include "gguf/reader.h"
#include "memory/feature_map.h"
#include "side_car/checksum.h"
#include "side_car/format.h"
#include "side_car/reading.h"
#include "side_car/threshold_tensors.h"

namespace atlas::side_car {
namespace {

using attention::InitialMemory;
using memory::CorrectorState;

Status encode_layer(const SideCar& side_car, const SideCarLayer& layer, Checksum* checksum, gguf::Content* out) {
    const LayerFormat format = format_of(side_car.options, side_car.seed, layer);
    std::vector<Part> parts = format.parts(layer.layer);
    for (Part& part : parts)
        part.data.resize(part.elements() * static_cast<size_t>(part.per_head ? layer.n_head_kv : 1));
    const memory::FeatureMap map(format.config.memory.features);
    for (int64_t head = 0; head < layer.n_head_kv; ++head) {
        const auto at = static_cast<size_t>(head);
        const auto found = side_car.memories.find({layer.layer, head});
        const InitialMemory memory = found == side_car.memories.end() ? InitialMemory{} : found->second;
        const Use use = !memory.far ? kDropped : !memory.enabled ? kEstimateOnly : !memory.state ? kEmpty : kCalibrated;
        find_part(parts, "atlas.memory.use")->data[at] = static_cast<float>(use);
        find_part(parts, "atlas.memory.mass_bias")->data[at] = memory.mass_bias;
        if (Part* weights = format.has_coefficients ? find_part(parts, "atlas.feature.weights") : nullptr) {
            const bool own = memory.state && !memory.state->coefficients.empty();
            for (size_t i = 0; i < weights->elements(); ++i)
                weights->data[at * weights->elements() + i] =
                    static_cast<float>(own ? memory.state->coefficients[i] : map.coefficients()[i]);
        }
        if (!memory.state) continue;
        const CorrectorState& state = *memory.state;
        if (state.weights.size() != format.weights() ||
            (!state.momentum.empty() && state.momentum.size() != format.momentum()) ||
            (!state.coefficients.empty() && state.coefficients.size() != map.coefficients().size())) {
            return Status::invalid_argument("side-car: layer " + std::to_string(layer.layer) + ", head " +
                                            std::to_string(head) + ": " + std::to_string(state.weights.size()) +
                                            " weights where " + std::to_string(format.weights()) + " are due");
        }
        find_part(parts, "atlas.memory.gate")->data[at] = static_cast<float>(state.gate);
        find_part(parts, "atlas.memory.scale")->data[at] = static_cast<float>(state.scale);
        std::transform(state.evidence.begin(), state.evidence.end(),
                       find_part(parts, "atlas.memory.evidence")->data.begin() + static_cast<ptrdiff_t>(5 * at),
                       [](double x) { return static_cast<float>(x); });
        walk_state(format, parts, at, [&](float& to, std::vector<float> CorrectorState::* from, size_t i) {
            to = (state.*from).empty() ? 0.0f : (state.*from)[i];
        });
    }
    for (Part& part : parts) {
        if (!part.per_head) {
            const auto from = part.name.find("phases") != std::string::npos ? map.phases() : map.weights();
            part.data.assign(from.begin(), from.end());
        }
        std::vector<int64_t> shape = part.shape_of(layer.n_head_kv);
        checksum->add(part.data);
        out->tensors.push_back({std::move(part.name), std::move(shape), std::move(part.data)});
    }
    return Status::ok();
}

bool same_file(const struct stat& a, const struct stat& b) { return a.st_dev == b.st_dev && a.st_ino == b.st_ino; }

std::string folder_of(const std::string& path) {
    const size_t slash = path.rfind('/');
    return slash == std::string::npos ? "." : path.substr(0, slash + 1);
}

}  // namespace

Status encode_side_car(const SideCar& side_car, gguf::Content* out) {
    gguf::Content content;
    const MemoryOptions& options = side_car.options;
    const bool least_squares = options.kind == FarMemoryKind::kLeastSquares;
    const bool hidden = options.kind == FarMemoryKind::kDeep || options.kind == FarMemoryKind::kGated;
    std::vector<int64_t> index, heads, d_k, d_v;
    int64_t features = 1;
    Checksum checksum;
    double alpha = options.omega_alpha;
    for (const SideCarLayer& layer : side_car.layers) {
        index.push_back(layer.layer);
        heads.push_back(layer.n_head_kv);
        d_k.push_back(layer.d_k);
        d_v.push_back(layer.d_v);
        const LayerFormat format = format_of(options, side_car.seed, layer);
        features = std::max(features, static_cast<int64_t>(format.features));
        if (least_squares) alpha = format.config.forgetting;
        if (Status status = encode_layer(side_car, layer, &checksum, &content); !status.is_ok()) return status;
    }
    gguf::Content of_thresholds;
    encode_thresholds(side_car.thresholds, &checksum, &of_thresholds);
    std::move(of_thresholds.tensors.begin(), of_thresholds.tensors.end(), std::back_inserter(content.tensors));
    content.keys = {
        {"general.architecture", std::string("atlas-side-car")},
        {"general.name", "Atlas memories of " + side_car.origin.model_name},
        {"atlas.version", kSideCarVersion},
        {"atlas.checksum", checksum.text()},
        {"atlas.enabled", side_car.enabled},
        {"atlas.model.name", side_car.origin.model_name},
        {"atlas.model.fingerprint", gguf::fingerprint_text(side_car.fingerprint)},
        {"atlas.memory_kind", word_of(options.kind)},
        {"atlas.memory_dim", hidden ? int64_t{options.hidden} : features},
        {"atlas.window_size", least_squares ? int64_t{0} : int64_t{options.omega_window}},
        {"atlas.muon_iterations", least_squares ? int64_t{0} : int64_t{options.muon_iterations}},
        {"atlas.feature_type", word_of(options.features)},
        {"atlas.feature_degree", int64_t{options.degree}},
        {"atlas.feature_seed", static_cast<int64_t>(side_car.seed)},
        {"atlas.omega_alpha", alpha},
        {"atlas.blend_ratio", options.blend_ratio},
        {"atlas.layer_count", int64_t{side_car.layer_count}},
        {"atlas.layer.index", index},
        {"atlas.layer.kv_heads", heads},
        {"atlas.layer.key_length", d_k},
        {"atlas.layer.value_length", d_v},
        {"atlas.calibration.context", side_car.origin.context},
        {"atlas.calibration.documents", side_car.origin.documents},
        {"atlas.calibration.held_out", side_car.origin.held_out},
        {"atlas.calibration.observations", side_car.origin.observations},
        {"atlas.calibration.planner", side_car.origin.planner},
    };
    content.keys.merge(of_thresholds.keys);
    *out = std::move(content);
    return Status::ok();
}

Status check_target(const Target& target) {
    const std::string shown = gguf::printable(target.path, 1024);
    const auto refused = [&](const std::string& why) { return Status::invalid_argument(shown + ": " + why); };
    if (target.path.empty() || target.path.back() == '/') return refused("no name of a file");
    struct stat model{}, there{};
    if (stat(target.model.c_str(), &model) != 0)
        return Status::io(gguf::printable(target.model, 1024) + ": " + std::strerror(errno));
    if (stat(target.path.c_str(), &there) == 0) {
        // By what they are, not by what they are called: another path, a link.
        if (same_file(model, there)) return refused("is the model itself; a side-car is a file beside it");
        if (!S_ISREG(there.st_mode)) return refused("not a regular file");
        gguf::Metadata file;
        if (!gguf::read(target.path, &file).is_ok() || !file.keys.contains("atlas.version"))
            return refused("exists and is not a side-car; only side-cars are ever replaced");
        if (!target.replace) return refused("exists already (atlas convert --force replaces side-cars)");
    } else if (errno != ENOENT) {
        return Status::io(shown + ": cannot be written: " + std::strerror(errno));
    }
    if (faccessat(AT_FDCWD, folder_of(target.path).c_str(), W_OK | X_OK, AT_EACCESS) != 0)
        return Status::io(shown + ": cannot be written: " + std::strerror(errno));
    return Status::ok();
}

Status write_side_car(const SideCar& side_car, const Target& target) {
    gguf::Content content;
    if (Status status = encode_side_car(side_car, &content); !status.is_ok()) return status;
    if (Status status = check_target(target); !status.is_ok()) return status;
    gguf::WriteOptions options;
    options.existing = target.replace ? gguf::Existing::kReplace : gguf::Existing::kKeep;
    options.check = [](const std::string& path) {
        SideCar back;
        return read_side_car(path, kNoLimit, &back);
    };
    return gguf::write(content, target.path, options);
}

}  // namespace atlas::side_car
