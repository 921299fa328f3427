#include "side_car/magnitudes.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace atlas::side_car {
namespace {

constexpr int64_t kMostColumns = 16;  // of a batch: neighbours are alike, and a text has many batches
constexpr uint32_t kInfinity = 0x7F800000u;

}  // namespace

double Magnitudes::Inputs::edge(size_t bin) {
    return static_cast<double>(std::bit_cast<float>(static_cast<uint32_t>(bin) << kShift));
}

double Magnitudes::Inputs::mean_square() const {
    double sum = 0.0;
    for (size_t i = 1; i < kBins; ++i) {  // the first one's are 0, or nearly
        if (bins[i] == 0) continue;
        const double middle = 0.5 * (edge(i) + edge(i + 1));
        sum += static_cast<double>(bins[i]) * middle * middle;
    }
    return count > 0.0 ? sum / count : 0.0;
}

double Magnitudes::Inputs::below(double magnitude) const {
    double sum = 0.0;
    for (size_t i = 0; i < kBins && edge(i) < magnitude; ++i) {
        if (bins[i] == 0) continue;
        const double low = edge(i), high = edge(i + 1);
        const double part = high <= magnitude ? 1.0 : (magnitude - low) / (high - low);
        sum += static_cast<double>(bins[i]) * part;
    }
    return count > 0.0 ? sum / count : 0.0;
}

void Magnitudes::add(std::string_view name, int64_t inputs, int64_t outputs, const float* x, int64_t columns) {
    if (columns <= 0) return;
    const std::lock_guard lock(mutex_);
    auto found = of_.find(name);
    if (found == of_.end()) found = of_.emplace(std::string(name), Inputs{}).first;
    Inputs& to = found->second;
    if (to.inputs != inputs || to.outputs != outputs) to = {inputs, outputs, 0.0, std::vector<uint64_t>(kBins)};
    const int64_t looked_at = std::min(columns, kMostColumns);
    for (int64_t c = 0; c < looked_at; ++c) {
        // The last ones of equal parts: the first token of a text, whose values are of another kind, is one of many.
        const float* column = x + ((c + 1) * columns / looked_at - 1) * inputs;
        for (int64_t i = 0; i < inputs; ++i) {
            const uint32_t bits = std::bit_cast<uint32_t>(column[i]) & 0x7FFFFFFFu;
            if (bits >= kInfinity) continue;
            ++to.bins[bits >> kShift];
            to.count += 1.0;
        }
    }
}

Thresholds Magnitudes::thresholds() const {
    const std::lock_guard lock(mutex_);
    Thresholds out;
    for (const auto& [name, of] : of_) {
        const double square = of.mean_square();
        if (!(square > 0.0)) continue;
        Thresholds::Weight& weight = out.weights[name];
        weight.inputs = of.inputs;
        weight.outputs = of.outputs;
        for (size_t i = 0; i < kShares.size(); ++i) {
            // The same share of every matrix: shares that follow how uneven inputs are, or how large matrices are, diverge more.
            double low = 0.0, high = 100.0 * std::sqrt(square);
            for (int step = 0; step < 60; ++step) {
                const double middle = 0.5 * (low + high);
                (of.below(middle) < 0.01 * kShares[i] ? low : high) = middle;
            }
            weight.at[i] = static_cast<float>(low);
        }
    }
    return out;
}

}  // namespace atlas::side_car
