#include "weights/format_settings.h"

#include <array>
#include <charconv>
#include <limits>
#include <string_view>

#include "kernels/e4m3.h"

namespace atlas::weights {
namespace {

using kernels::WeightType;

// Of 256 weights that share a scale, and of 32 for rows that are no multiple of 256. In order of bits.
constexpr std::array kLong = {WeightType::kQ8_0, WeightType::kQ6_K, WeightType::kQ5_K, WeightType::kQ4_K};
constexpr std::array kShort = {WeightType::kQ8_0, WeightType::kQ5_1, WeightType::kIQ4_NL};
constexpr double kLeastBits = 4.5, kMostBits = 16.0;
constexpr int kHalvings = 100;

/** Bits of a code, without scales. */
int code_bits(WeightType type) {
    switch (type) {
        case WeightType::kQ8_0:
            return 8;
        case WeightType::kQ6_K:
            return 6;
        case WeightType::kQ5_K:
        case WeightType::kQ5_1:
            return 5;
        default:
            return 4;
    }
}

double total_bits(std::span<const Candidate> candidates, double price) {
    double sum = 0.0;
    for (const Candidate& candidate : candidates) {
        const auto type = choose(candidate, price);
        sum += candidate.weights * (type ? bits_of(*type) : candidate.native_bits);
    }
    return sum;
}

}  // namespace

Status parse_format(const std::string& text, FormatSettings* out) {
    *out = {};
    std::string_view view(text);
    out->text = text;
    if (view.empty() || view == "native") return Status::ok();
    constexpr std::string_view kHead = "+head";
    const bool head = view.ends_with(kHead);
    if (head) view.remove_suffix(kHead.size());
    for (const int bits : {8, 6, 5, 4}) {
        if (view != "int" + std::to_string(bits)) continue;
        out->kind = FormatSettings::Kind::kFixed;
        out->bits = bits;
        out->head = head;
        return Status::ok();
    }
    if (view == "fp8") {
        out->kind = FormatSettings::Kind::kFixed;
        out->bits = 8;
        out->floats = true;
        out->head = head;
        return Status::ok();
    }
    constexpr std::string_view kAuto = "auto:";
    if (view.starts_with(kAuto)) {
        const char* const end = view.data() + view.size();
        double bits = 0.0;
        const auto [stop, error] = std::from_chars(view.data() + kAuto.size(), end, bits);
        if (error == std::errc() && stop == end && bits >= kLeastBits && bits <= kMostBits) {
            out->kind = FormatSettings::Kind::kAuto;
            out->bits_each = bits;
            out->head = head;
            return Status::ok();
        }
    }
    return Status::invalid_argument(
        "ATLAS_WEIGHT_FORMAT=" + text +
        ": allowed is native, int8, int6, int5, int4, fp8 or auto:BITS with BITS from 4.5 to 16, and +head behind it");
}

std::span<const WeightType> bodies(int64_t cols) {
    if (cols % 256 == 0) return kLong;
    if (cols % 32 == 0) return kShort;
    return {};
}

std::optional<WeightType> body_of(int bits, int64_t cols) {
    std::optional<WeightType> best;
    for (const WeightType type : bodies(cols)) {
        if (code_bits(type) >= bits) best = type;
    }
    return best;
}

std::optional<WeightType> float_body_of(int64_t cols) {
    return cols % static_cast<int64_t>(kernels::kE4M3Block) == 0 ? WeightType::kE4M3 : body_of(8, cols);
}

double bits_of(WeightType type) {
    const kernels::WeightTypeInfo& info = kernels::weight_type_info(type);
    return 8.0 * info.block_bytes / info.block_elements;
}

std::optional<WeightType> choose(const Candidate& candidate, double price) {
    std::optional<WeightType> best;
    double least = price * candidate.weights * candidate.native_bits;
    for (size_t i = 0; i < candidate.types.size(); ++i) {
        const double cost = candidate.noise[i] + price * candidate.weights * bits_of(candidate.types[i]);
        if (cost >= least) continue;
        least = cost;
        best = candidate.types[i];
    }
    return best;
}

double price_of_a_bit(std::span<const Candidate> candidates, double bits_each) {
    double weights = 0.0;
    for (const Candidate& candidate : candidates) weights += candidate.weights;
    const double most = bits_each * weights;
    if (total_bits(candidates, 0.0) <= most) return 0.0;
    // Noise is at most about 1 a matrix, so that nobody keeps a bit at this price.
    double low = 0.0, high = 1.0;
    for (int i = 0; i < kHalvings; ++i) {
        const double middle = low + (high - low) / 2;
        (total_bits(candidates, middle) <= most ? high : low) = middle;
    }
    return high;
}

}  // namespace atlas::weights
