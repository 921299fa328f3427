// Products that leave inputs out (ATLAS_SPARSITY, which counts from load on: a program of its own), through the host's public interface.

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <numeric>
#include <string>
#include <tuple>
#include <vector>

#include "atlas_device.h"

namespace atlas::host::test {
namespace {

// Much, so that what is left out weighs something.
constexpr double kShare = 0.7;

class SparseColumns : public AtlasDevice {
protected:
    void SetUp() override {
        setenv("ATLAS_SPARSITY", "0.7", 1);
        AtlasDevice::SetUp();
    }
};

/** The last two operations of a feed-forward layer on one device: the same values on each. */
struct Layer {
    Layer(ggml_backend_dev_t device, ggml_type type, int64_t inputs, int64_t outputs, int64_t tokens, bool gated = true)
        : bench(device) {
        weights = bench.tensor("blk.0.ffn_down.weight", type, {inputs, outputs});
        gate = bench.tensor("gate", GGML_TYPE_F32, {inputs, tokens});
        up = bench.tensor("up", GGML_TYPE_F32, {inputs, tokens});
        hidden = gated ? ggml_swiglu_split(bench.context(), gate, up) : ggml_add(bench.context(), gate, up);
        product = ggml_mul_mat(bench.context(), weights, hidden);
        EXPECT_NE(bench.allocate(), nullptr);
        Bench::set(weights, noise(static_cast<size_t>(ggml_nelements(weights)), 1));
        set(2);
    }
    void set(uint32_t seed) const {
        std::vector<float> values = noise(static_cast<size_t>(ggml_nelements(gate)), seed);
        for (float& value : values) value *= 4.0f;
        Bench::set(gate, values);
        Bench::set(up, noise(static_cast<size_t>(ggml_nelements(up)), seed + 1));
    }
    std::vector<float> run() {
        EXPECT_EQ(bench.compute(product), GGML_STATUS_SUCCESS);
        return Bench::floats(product);
    }

    Bench bench;
    ggml_tensor *weights, *gate, *up, *hidden, *product;
};

/** The weights as they are stored. */
std::vector<float> weights_of(const Layer& layer) {
    if (layer.weights->type == GGML_TYPE_F32) return Bench::floats(layer.weights);
    const std::vector<uint8_t> bytes = Bench::bytes(layer.weights);
    std::vector<float> values(bytes.size() / 2);
    const auto count = static_cast<int64_t>(values.size());
    if (layer.weights->type == GGML_TYPE_F16) {
        ggml_fp16_to_fp32_row(reinterpret_cast<const ggml_fp16_t*>(bytes.data()), values.data(), count);
    } else {
        ggml_bf16_to_fp32_row(reinterpret_cast<const ggml_bf16_t*>(bytes.data()), values.data(), count);
    }
    return values;
}

/** Exponent and four bits of the fraction: what counts as equally small. */
uint32_t size_of(float x) { return (std::bit_cast<uint32_t>(x) & 0x7FFFFFFFu) >> 19; }

/** In float64, without the smallest inputs; of equally small ones the first. */
std::vector<float> expected(const Layer& layer, double share) {
    const std::vector<float> hidden = Bench::floats(layer.hidden), weights = weights_of(layer);
    std::vector<size_t> order(hidden.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return size_of(hidden[a]) < size_of(hidden[b]); });
    order.erase(order.begin(), order.begin() + static_cast<int64_t>(share * static_cast<double>(hidden.size())));
    std::vector<float> out;
    for (int64_t r = 0; r < layer.weights->ne[1]; ++r) {
        double sum = 0;
        for (const size_t i : order)
            sum += static_cast<double>(hidden[i]) *
                   static_cast<double>(weights[static_cast<size_t>(r) * hidden.size() + i]);
        out.push_back(static_cast<float>(sum));
    }
    return out;
}

TEST_F(SparseColumns, ASingleTokenLeavesTheSmallestInputsOut) {
    for (const ggml_type type : {GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16}) {
        for (const auto& [inputs, outputs] :
             {std::pair{704, 256}, std::pair{1000, 33}, std::pair{65, 1}, std::pair{1, 7}}) {
            Layer layer(device_, type, inputs, outputs, 1);
            for (const uint32_t seed : {2u, 5u}) {
                layer.set(seed);
                const std::vector<float> got = layer.run();
                EXPECT_LT(nmse(expected(layer, kShare), got), 1e-10)
                    << ggml_type_name(type) << " " << inputs << " × " << outputs;
                if (inputs < 100) continue;
                for (const double other : {0.0, kShare - 0.1, kShare + 0.1})
                    EXPECT_GT(nmse(expected(layer, other), got), 3e-3)
                        << ggml_type_name(type) << " " << inputs << " × " << outputs << ": as if a share of " << other;
                EXPECT_EQ(layer.run(), got) << "the same twice";
            }
        }
    }
}

TEST_F(SparseColumns, WhatIsNoNumberIsNotLeftOut) {
    Layer layer(device_, GGML_TYPE_F16, 256, 8, 1);
    std::vector<float> gate(256, 1.0f), up(256, 0.5f);
    gate[100] = std::numeric_limits<float>::quiet_NaN();
    Bench::set(layer.gate, gate);
    Bench::set(layer.up, up);
    for (const float value : layer.run()) EXPECT_TRUE(std::isnan(value));
}

TEST_F(SparseColumns, AllElseIsAsTheHosts) {
    struct Case {
        ggml_type type;
        int64_t tokens;
        bool gated;
    };
    for (const Case& one : {Case{GGML_TYPE_F16, 2, true}, Case{GGML_TYPE_F16, 1, false}, Case{GGML_TYPE_Q4_0, 1, true},
                            Case{GGML_TYPE_Q4_K, 1, true}}) {
        Layer ours(device_, one.type, 512, 40, one.tokens, one.gated),
            theirs(cpu_device(), one.type, 512, 40, one.tokens, one.gated);
        EXPECT_LT(nmse(theirs.run(), ours.run()), 1e-6)
            << ggml_type_name(one.type) << ", tokens " << one.tokens << ", gated " << one.gated;
    }
}

TEST_F(SparseColumns, WhereNothingIsLeftOutItIsSaidOnce) {
    for (const auto& [type, tokens, said] : {std::tuple{GGML_TYPE_Q4_0, 1, true}, std::tuple{GGML_TYPE_Q4_0, 2, false},
                                             std::tuple{GGML_TYPE_F16, 1, false}}) {
        Layer layer(device_, type, 512, 40, tokens);
        testing::internal::CaptureStderr();
        layer.run();
        layer.run();
        const std::string text = testing::internal::GetCapturedStderr();
        const std::string line = "activation sparsity takes no part in a context: no product behind a gated unit";
        const size_t at = text.find(line);
        EXPECT_EQ(at != std::string::npos, said) << ggml_type_name(type) << ", tokens " << tokens << ": " << text;
        EXPECT_TRUE(!said || text.find(line, at + 1) == std::string::npos) << text;
    }
}

}  // namespace
}  // namespace atlas::host::test
