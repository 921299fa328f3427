// Products that leave out inputs below a side-car's thresholds (ATLAS_SPARSITY and ATLAS_SIDE_CAR, which count from load on: a program of its own), through the
// host's public interface.

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "atlas_device.h"
#include "gguf/fingerprint.h"
#include "gguf/writer.h"
#include "side_car/writing.h"

namespace atlas::host::test {
namespace {

constexpr int64_t kInputs = 704, kOutputs = 130;
constexpr float kThreshold = 0.375f;  // for the share that is asked for
constexpr const char* kName = "blk.0.attn_q.weight";

class SparseThresholds : public AtlasDevice {
protected:
    static void SetUpTestSuite() {
        namespace fs = std::filesystem;
        const fs::path folder = fs::temp_directory_path() / ("atlas-thresholds-" + std::to_string(getpid()));
        fs::create_directories(folder);
        const std::string model = folder / "model.gguf", file = folder / "model.atlas.gguf";
        gguf::Content content;
        content.keys["general.architecture"] = std::string("llama");
        content.tensors.push_back({"some", {1}, std::vector<float>{1.0f}});
        ASSERT_TRUE(gguf::write(content, model).is_ok());
        side_car::SideCar side_car;
        side_car.enabled = false;
        side_car.layer_count = 1;
        ASSERT_TRUE(gguf::fingerprint_of(model, &side_car.fingerprint).is_ok());
        // 45 % lies between 40 and 50.
        side_car.thresholds.weights[kName] = {kInputs, kOutputs, {0, 0.125f, 0.25f, 0.5f, 0.625f, 0.75f, 0.875f}};
        ASSERT_TRUE(side_car::write_side_car(side_car, {file, model, false}).is_ok());
        setenv("ATLAS_SPARSITY", "0.45", 1);
        setenv("ATLAS_MODEL", model.c_str(), 1);
        setenv("ATLAS_SIDE_CAR", file.c_str(), 1);
        folder_ = folder;
    }
    static void TearDownTestSuite() { std::filesystem::remove_all(folder_); }
    static inline std::filesystem::path folder_;
};

struct Product {
    Product(ggml_backend_dev_t device, const char* name, ggml_type type, int64_t outputs = kOutputs, int64_t tokens = 1)
        : bench(device) {
        weights = bench.tensor(name, type, {kInputs, outputs});
        x = bench.tensor("x", GGML_TYPE_F32, {kInputs, tokens});
        product = ggml_mul_mat(bench.context(), weights, x);
        EXPECT_NE(bench.allocate(), nullptr);
        Bench::set(weights, noise(static_cast<size_t>(ggml_nelements(weights)), 1));
        values = noise(static_cast<size_t>(kInputs * tokens), 7);
        values[3] = kThreshold;   // is read: what is below is left out
        values[4] = -kThreshold;  // the same
        values[5] = -0.999f * kThreshold;
        Bench::set(x, values);
    }
    std::vector<float> run() {
        EXPECT_EQ(bench.compute(product), GGML_STATUS_SUCCESS);
        return Bench::floats(product);
    }

    Bench bench;
    ggml_tensor *weights, *x, *product;
    std::vector<float> values;
};

TEST_F(SparseThresholds, WhatIsBelowIsNotRead) {
    Product of(device_, kName, GGML_TYPE_F32);
    const std::vector<float> got = of.run(), weights = Bench::floats(of.weights);
    const auto expected = [&](float threshold) {
        std::vector<float> out;
        for (int64_t r = 0; r < kOutputs; ++r) {
            double sum = 0;
            for (int64_t i = 0; i < kInputs; ++i) {
                const float x = of.values[static_cast<size_t>(i)];
                if (!(std::abs(x) < threshold))
                    sum += static_cast<double>(x) * static_cast<double>(weights[static_cast<size_t>(r * kInputs + i)]);
            }
            out.push_back(static_cast<float>(sum));
        }
        return out;
    };
    EXPECT_LT(nmse(expected(kThreshold), got), 1e-10);
    for (const float other : {0.0f, 0.25f, 0.5f, std::nextafter(kThreshold, 1.0f)})
        EXPECT_GT(nmse(expected(other), got), 1e-6) << "as if the threshold were " << other;
    EXPECT_EQ(of.run(), got);
}

TEST_F(SparseThresholds, WhatIsNoNumberIsRead) {
    Product of(device_, kName, GGML_TYPE_F16);
    of.values[9] = std::numeric_limits<float>::quiet_NaN();
    Bench::set(of.x, of.values);
    for (const float value : of.run()) EXPECT_TRUE(std::isnan(value));
}

TEST_F(SparseThresholds, AllElseIsAsTheHosts) {
    struct Case {
        const char* name;
        ggml_type type;
        int64_t outputs, tokens;
    };
    for (const Case& one : {Case{"blk.0.attn_k.weight", GGML_TYPE_F16, kOutputs, 1}, Case{kName, GGML_TYPE_F16, kOutputs - 1, 1},
                            Case{kName, GGML_TYPE_F16, kOutputs, 2}, Case{kName, GGML_TYPE_Q4_0, kOutputs, 1}}) {
        Product ours(device_, one.name, one.type, one.outputs, one.tokens),
            theirs(cpu_device(), one.name, one.type, one.outputs, one.tokens);
        EXPECT_LT(nmse(theirs.run(), ours.run()), 1e-6) << one.name << ", " << ggml_type_name(one.type) << ", " << one.tokens;
    }
}

}  // namespace
}  // namespace atlas::host::test
