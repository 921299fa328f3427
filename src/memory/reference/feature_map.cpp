#include "memory/reference/feature_map.h"

#include <cmath>

namespace atlas::memory::reference {
namespace {

/** Calls visit(product, number of orderings) for all index tuples of `left` more indices from `first` on. */
template <class Visit>
void tuples(const std::vector<double>& x, int left, size_t first, double product, std::vector<size_t>* chosen,
            const Visit& visit) {
    if (left == 0) {
        double orderings = 1.0;
        for (size_t i = 0; i < chosen->size(); ++i) orderings *= static_cast<double>(i + 1);
        size_t same = 1;
        for (size_t i = 1; i < chosen->size(); ++i) {
            same = (*chosen)[i] == (*chosen)[i - 1] ? same + 1 : 1;
            orderings /= static_cast<double>(same);
        }
        visit(product, orderings);
        return;
    }
    for (size_t i = first; i < x.size(); ++i) {
        chosen->push_back(i);
        tuples(x, left - 1, i, product * x[i], chosen, visit);
        chosen->pop_back();
    }
}

}  // namespace

std::vector<double> map_features(const FeatureMap& map, const double* input) {
    const FeatureConfig& config = map.config();
    std::vector<double> x(input, input + config.d);
    double square = 0.0;
    for (const double value : x) square += value * value;
    if (config.normalize && square > 0.0) {
        for (double& value : x) value /= std::sqrt(square);
    }
    if (config.type == FeatureType::kIdentity) return x;
    std::vector<double> out;
    if (config.type == FeatureType::kPolynomial || config.type == FeatureType::kExponential) {
        for (int n = 0; n <= config.degree; ++n) {
            std::vector<size_t> chosen;
            tuples(x, n, 0, 1.0, &chosen, [&](double product, double orderings) {
                out.push_back(map.coefficients()[static_cast<size_t>(n)] * product *
                              (config.type == FeatureType::kExponential ? std::sqrt(orderings) : 1.0));
            });
        }
        return out;
    }
    const double width = config.bandwidth > 0.0 ? config.bandwidth
                         : config.normalize     ? 1.0
                                                : std::sqrt(static_cast<double>(config.d));
    for (size_t f = 0; f < map.features(); ++f) {
        double dot = 0.0;
        double distance = 0.0;
        for (size_t i = 0; i < config.d; ++i) {
            const auto w = static_cast<double>(map.weights()[f * config.d + i]);
            dot += w * x[i];
            distance += (x[i] - w) * (x[i] - w);
        }
        out.push_back(config.type == FeatureType::kFourier ? std::sqrt(2.0 / static_cast<double>(map.features())) *
                                                                 std::cos(dot + static_cast<double>(map.phases()[f]))
                                                           : std::exp(-distance / (2.0 * width * width)));
    }
    return out;
}

}  // namespace atlas::memory::reference
