#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "attention/correct/far_memory.h"
#include "base/options.h"
#include "memory/deep_memory.h"
#include "side_car/side_car.h"

/** Layout of a side-car's tensors, shared by its reader and its encoder. docs/side-car.md has the table. */
namespace atlas::side_car {

/** A tensor of one layer: what it is called, how large one head's part is (without the last dimension, the heads) and where that lies. */
struct Part {
    std::string name;
    std::vector<int64_t> shape;  ///< of one head; empty: one number
    bool per_head = true;
    std::vector<float> data;

    size_t elements() const {
        size_t n = 1;
        for (const int64_t size : shape) n *= static_cast<size_t>(size);
        return n;
    }
    /** As it stands in the file, with the heads. */
    std::vector<int64_t> shape_of(int64_t heads) const {
        std::vector<int64_t> all = shape;
        if (per_head) all.push_back(heads);
        return all;
    }
};

/** Values of atlas.memory.use: what becomes of a head's far part. */
enum Use { kDropped, kEstimateOnly, kEmpty, kCalibrated };

/** Sizes of a layer's memory, and the tensors that it consists of. */
struct LayerFormat {
    memory::CorrectorConfig config;
    size_t features = 0;
    bool constant = false;  ///< least squares: feature 0 is a constant, whose weights are bias1
    memory::MemoryShape shape;
    std::vector<memory::ParameterTensor> parameters;  ///< of the Omega rule
    bool has_coefficients = false;

    /** All tensors, without their data. */
    std::vector<Part> parts(int layer) const;
    /** Numbers of CorrectorState::weights and ::momentum. */
    size_t weights() const;
    size_t momentum() const;
};

LayerFormat format_of(const MemoryOptions& options, uint64_t seed, const SideCarLayer& layer);

/** The part of that name (without its layer's suffix), or null. */
Part* find_part(std::vector<Part>& parts, const char* name);

/**
 * The one place that knows where a head's numbers lie: calls move(number of the file, vector of the state, index in that) for every
 * one of them; which way it moves is the caller's.
 */
template <typename Move>
void walk_state(const LayerFormat& format, std::vector<Part>& parts, size_t head, const Move& move) {
    const auto all = [&](const char* name, std::vector<float> memory::CorrectorState::* to) {
        Part& part = *find_part(parts, name);
        const size_t n = part.elements();
        for (size_t i = 0; i < n; ++i) move(part.data[head * n + i], to, i);
    };
    if (!format.config.least_squares) {
        for (const memory::ParameterTensor& tensor : format.parameters) {
            Part& part = *find_part(parts, (std::string("atlas.memory.") + tensor.name).c_str());
            const size_t n = part.elements();
            for (size_t i = 0; i < n; ++i)
                move(part.data[head * n + i], &memory::CorrectorState::weights, tensor.offset + i);
        }
        all("atlas.muon.momentum", &memory::CorrectorState::momentum);
        return;
    }
    Part& weight1 = *find_part(parts, "atlas.memory.weight1");
    const size_t n = format.features;
    const size_t first = format.constant ? 1 : 0;
    for (size_t o = 0; o < format.config.memory.d_out; ++o) {
        float* row = weight1.data.data() + (head * format.config.memory.d_out + o) * (n - first);
        for (size_t i = first; i < n; ++i) move(row[i - first], &memory::CorrectorState::weights, o * n + i);
        if (format.constant) {
            Part& bias1 = *find_part(parts, "atlas.memory.bias1");
            move(bias1.data[head * format.config.memory.d_out + o], &memory::CorrectorState::weights, o * n);
        }
    }
    all("atlas.memory.covariance", &memory::CorrectorState::momentum);
}

}  // namespace atlas::side_car
