#include "side_car/threshold_tensors.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "gguf/printable.h"

namespace atlas::side_car {
namespace {

constexpr const char* kSharesKey = "atlas.sparsity.shares";
constexpr std::string_view kPrefix = "atlas.sparsity.";
constexpr size_t kLongestName = 63;  // that GGUF allows
constexpr size_t kShape = 2;         // inputs and outputs come first
constexpr float kMostElements = 16777216.0f;

bool is_count(float value) { return value >= 1.0f && value <= kMostElements && value == std::floor(value); }

}  // namespace

void encode_thresholds(const Thresholds& thresholds, Checksum* checksum, gguf::Content* out) {
    if (thresholds.empty()) return;
    out->keys[kSharesKey] = std::vector<int64_t>(kShares.begin(), kShares.end());
    for (const auto& [name, weight] : thresholds.weights) {
        std::string full = std::string(kPrefix) + name;
        if (full.size() > kLongestName) continue;
        std::vector<float> data = {static_cast<float>(weight.inputs), static_cast<float>(weight.outputs)};
        data.insert(data.end(), weight.at.begin(), weight.at.end());
        checksum->add(data);
        out->tensors.push_back({std::move(full), {static_cast<int64_t>(data.size())}, std::move(data)});
    }
}

Status read_thresholds(const gguf::Metadata& file, Checksum* checksum, Thresholds* out) {
    const auto shares = file.keys.find(kSharesKey);
    if (shares == file.keys.end()) return Status::ok();
    const auto* given = std::get_if<std::vector<int64_t>>(&shares->second);
    if (!given || !std::equal(given->begin(), given->end(), kShares.begin(), kShares.end()))
        return Status::corrupt(file.shown + ": " + kSharesKey + " is not the list of shares that this library has");
    // In the order of their names, as they were written.
    for (auto found = file.tensors.lower_bound(std::string(kPrefix));
         found != file.tensors.end() && found->first.starts_with(kPrefix); ++found) {
        std::vector<float> data;
        if (Status status = gguf::read_f32(file, found->first, kShape + kShares.size(), &data); !status.is_ok())
            return status;
        const auto wrong = [&](const std::string& what) {
            return Status::corrupt(file.shown + ": tensor '" + gguf::printable(found->first, 80) + "': " + what);
        };
        if (data.size() != kShape + kShares.size()) return wrong(std::to_string(data.size()) + " numbers");
        if (!is_count(data[0]) || !is_count(data[1]))
            return wrong("of a matrix of " + std::to_string(data[0]) + " x " + std::to_string(data[1]));
        Thresholds::Weight weight{static_cast<int64_t>(data[0]), static_cast<int64_t>(data[1]), {}};
        float before = 0.0f;
        for (size_t i = 0; i < kShares.size(); ++i) {
            const float at = data[kShape + i];
            if (!(at >= before) || !std::isfinite(at))
                return wrong("threshold " + std::to_string(at) + " for " + std::to_string(kShares[i]) + " % behind " +
                             std::to_string(before));
            weight.at[i] = before = at;
        }
        checksum->add(data);
        out->weights.emplace(found->first.substr(kPrefix.size()), weight);
    }
    if (out->empty()) return Status::corrupt(file.shown + ": " + kSharesKey + " without a threshold");
    return Status::ok();
}

}  // namespace atlas::side_car
