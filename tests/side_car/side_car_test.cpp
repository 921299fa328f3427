#include "side_car/side_car.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>

#include "host/side_car_writer.h"
#include "memory/deep_memory.h"
#include "memory/feature_map.h"
#include "side_car/model_file.h"
#include "side_car/side_car_use.h"

namespace atlas::runtime {
namespace {

namespace fs = std::filesystem;
using attention::InitialMemory;
using memory::CorrectorState;

class SideCarTest : public testing::Test {
protected:
    SideCarTest() : folder_(fs::temp_directory_path() / ("atlas-side-car-" + std::to_string(getpid()))) {
        fs::create_directories(folder_);
    }
    ~SideCarTest() override { fs::remove_all(folder_); }

    std::string path(const std::string& name) const { return (folder_ / name).string(); }

    std::shared_ptr<CorrectorState> random_state(const MemoryOptions& options, int64_t d_k, int64_t d_v) {
        const auto config = attention::corrector_config(options, d_k, d_v, 1);
        const size_t features = memory::feature_count(config.memory.features);
        const size_t weights = config.least_squares ? features * config.memory.d_out
                                                    : memory::parameter_count(memory::shape_of(config.memory));
        auto state = std::make_shared<CorrectorState>();
        state->weights.resize(weights);
        state->momentum.resize(config.least_squares ? features * features : weights);
        for (float& x : state->weights) x = normal_(random_);
        for (float& x : state->momentum) x = normal_(random_);
        const memory::FeatureMap map(config.memory.features);
        for (size_t i = 0; i < map.coefficients().size(); ++i) state->coefficients.push_back(1.0 + 0.25 * double(i));
        state->scale = 0.5;
        state->gate = 0.75;
        state->evidence = {1, 2, 3.5, 4, 5};
        return state;
    }

    /** Layers 1 and 3 of 5, of different shapes, with every kind of head. */
    SideCar example(const MemoryOptions& options) {
        SideCar side_car;
        side_car.options = options;
        side_car.fingerprint = 0x0123456789abcdef;
        side_car.layer_count = 5;
        side_car.layers = {{1, 4, 16, 8}, {3, 1, 8, 8}};
        side_car.memories[{1, 0}] = {true, true, 0.125f, random_state(options, 16, 8)};
        side_car.memories[{1, 1}] = {true, true, 0.0f, nullptr};
        side_car.memories[{1, 2}] = {true, false, -0.5f, nullptr};
        side_car.memories[{1, 3}] = {false, false, 0.0f, nullptr};
        side_car.memories[{3, 0}] = {true, true, 0.0f, random_state(options, 8, 8)};
        side_car.origin = {"a model", "block 32", 8192, 6, 2, 1234};
        return side_car;
    }

    std::string written(const SideCar& side_car, const std::string& name = "m.atlas.gguf") {
        SideCarContent content;
        EXPECT_TRUE(encode_side_car(side_car, &content).is_ok());
        return written(content, name);
    }
    std::string written(const SideCarContent& content, const std::string& name = "m.atlas.gguf") {
        const Status status = host::write_side_car(content, path(name));
        EXPECT_TRUE(status.is_ok()) << status.to_string();
        return path(name);
    }

    std::string bytes_of(const std::string& file) {
        std::ifstream in(file, std::ios::binary);
        return {std::istreambuf_iterator<char>(in), {}};
    }
    std::string with_bytes(const std::string& bytes) {
        // Truncating a file makes some file systems wait for the disk.
        fs::remove(path("changed.gguf"));
        std::ofstream(path("changed.gguf"), std::ios::binary) << bytes;
        return path("changed.gguf");
    }

    /** Reading must fail with a text that has `named` in it, and leave the result alone. */
    void refused(const std::string& file, const std::string& named) {
        SideCar out;
        out.layer_count = 77;
        const Status status = read_side_car(file, &out);
        ASSERT_FALSE(status.is_ok()) << named;
        EXPECT_NE(status.message().find(named), std::string::npos) << status.to_string();
        EXPECT_NE(status.message().find(file), std::string::npos) << status.to_string();
        EXPECT_EQ(status.message().find('\n'), std::string::npos);
        EXPECT_EQ(out.layer_count, 77);
    }

    fs::path folder_;
    std::mt19937 random_{7};
    std::normal_distribution<float> normal_;
};

std::vector<MemoryOptions> kinds() {
    std::vector<MemoryOptions> all(8);
    all[1].features = MemoryFeatures::kIdentity;
    all[2].features = MemoryFeatures::kExponential;
    all[2].degree = 2;
    all[3].features = MemoryFeatures::kFourier;
    all[4].kind = FarMemoryKind::kLinear;
    all[5].kind = FarMemoryKind::kDeep;
    all[5].hidden = 12;
    all[6].kind = FarMemoryKind::kGated;
    all[6].hidden = 10;
    all[6].omega_alpha = 0.9;
    all[6].omega_window = 5;
    all[6].muon_iterations = 3;
    all[7].features = MemoryFeatures::kRbf;
    all[7].blend_ratio = 0.1;
    return all;
}

TEST_F(SideCarTest, EveryKindComesBackAsItWas) {
    for (const MemoryOptions& options : kinds()) {
        const SideCar before = example(options);
        SideCar after;
        const Status status = read_side_car(written(before), &after);
        ASSERT_TRUE(status.is_ok()) << status.to_string();
        EXPECT_EQ(after.fingerprint, before.fingerprint);
        EXPECT_EQ(after.layers, before.layers);
        EXPECT_EQ(after.layer_count, 5);
        EXPECT_EQ(options_with(after, MemoryOptions{}), options);
        EXPECT_EQ(after.origin.observations, 1234);
        EXPECT_EQ(after.origin.model_name, "a model");
        ASSERT_EQ(after.memories.size(), before.memories.size());
        for (const auto& [place, memory] : before.memories) {
            const InitialMemory& read = after.memories.at(place);
            EXPECT_EQ(read.far, memory.far);
            EXPECT_EQ(read.enabled, memory.enabled);
            EXPECT_EQ(read.mass_bias, memory.mass_bias);
            ASSERT_EQ(read.state == nullptr, memory.state == nullptr);
            if (!memory.state) continue;
            EXPECT_EQ(read.state->weights, memory.state->weights);
            EXPECT_EQ(read.state->momentum, memory.state->momentum);
            EXPECT_EQ(read.state->coefficients, memory.state->coefficients);
            EXPECT_EQ(read.state->scale, memory.state->scale);
            EXPECT_EQ(read.state->gate, memory.state->gate);
            EXPECT_EQ(read.state->evidence, memory.state->evidence);
            const auto config = attention::corrector_config(after.options, place.first == 1 ? 16 : 8, 8, after.seed);
            EXPECT_TRUE(memory::Corrector(config).start_from(read.state).is_ok());
        }
    }
}

TEST_F(SideCarTest, TheLowerCeilingCounts) {
    SideCar side_car;
    side_car.options.blend_ratio = 0.5;
    MemoryOptions options;
    EXPECT_EQ(options_with(side_car, options).blend_ratio, 0.5);
    options.blend_ratio = 0.1;
    EXPECT_EQ(options_with(side_car, options).blend_ratio, 0.1);
}

TEST_F(SideCarTest, StatesOfAnotherShapeAreNotWritten) {
    SideCar side_car = example({});
    side_car.layers[1].d_k = 10;
    SideCarContent content;
    const Status status = encode_side_car(side_car, &content);
    EXPECT_NE(status.message().find("layer 3, head 0"), std::string::npos) << status.to_string();
    EXPECT_FALSE(host::write_side_car({}, path("no/such/folder/m.gguf")).is_ok());
}

TEST_F(SideCarTest, EveryTruncationIsRefused) {
    MemoryOptions options;
    options.features = MemoryFeatures::kIdentity;
    const std::string whole = bytes_of(written(example(options)));
    for (size_t n = 0; n < whole.size(); n += n < 4096 ? 1 : 97) {
        SideCar out;
        const Status status = read_side_car(with_bytes(whole.substr(0, n)), &out);
        ASSERT_FALSE(status.is_ok()) << n << " of " << whole.size();
        ASSERT_NE(status.message().find("changed.gguf"), std::string::npos);
    }
}

/** Whatever a byte is changed to: a status, or a file that is still one. Data bytes are under the checksum. */
TEST_F(SideCarTest, ChangedBytesNeverEndTheProcess) {
    const std::string whole = bytes_of(written(example({})));
    GgufFile file;
    ASSERT_TRUE(read_gguf(path("m.atlas.gguf"), &file).is_ok());
    for (int i = 0; i < 4000; ++i) {
        std::string bytes = whole;
        const size_t at = random_() % (i % 4 ? file.data_begin : bytes.size());
        bytes[at] = static_cast<char>(i % 3 ? random_() : 0xff);
        SideCar out;
        const bool same = bytes == whole;
        const Status status = read_side_car(with_bytes(bytes), &out);
        uint64_t fingerprint = 0;
        (void)fingerprint_of(path("changed.gguf"), &fingerprint);
        if (same) {
            EXPECT_TRUE(status.is_ok()) << status.to_string();
        }
        // Padding between tensors is nobody's.
        if (at >= file.data_begin && !same && status.is_ok()) {
            EXPECT_EQ(whole[at], 0);
        }
    }
}

TEST_F(SideCarTest, WhatIsWrongIsNamed) {
    SideCarContent good;
    ASSERT_TRUE(encode_side_car(example({}), &good).is_ok());
    const auto with_key = [&](const char* key, const GgufValue& value) {
        SideCarContent content = good;
        content.keys[key] = value;
        return written(content, "bad.gguf");
    };
    refused(with_key("atlas.version", int64_t{2}), "version 2, this library reads version 1");
    refused(with_key("atlas.version", std::string("1")), "'atlas.version' is not a whole number");
    refused(with_key("atlas.model.fingerprint", std::string("12")), "fingerprint = '12'");
    refused(with_key("atlas.memory_kind", std::string("huge")), "atlas.memory_kind = 'huge', allowed is one of least");
    refused(with_key("atlas.memory_kind", std::string("linear")), "atlas.window_size = 0, allowed is 1");
    refused(with_key("atlas.feature_degree", int64_t{4}), "atlas.feature_degree = 4, allowed is 1 to 3");
    refused(with_key("atlas.feature_degree", int64_t{3}), "layer 1 has 3786852 numbers, the file");
    refused(with_key("atlas.blend_ratio", std::numeric_limits<double>::quiet_NaN()), "atlas.blend_ratio = nan");
    refused(with_key("atlas.enabled", int64_t{1}), "'atlas.enabled' is not a truth value");
    refused(with_key("atlas.layer.index", std::vector<int64_t>{3, 1}), "geometry of layer 1");
    refused(with_key("atlas.layer.index", std::vector<int64_t>{1, 5}), "geometry of layer 5");
    refused(with_key("atlas.layer.index", std::vector<int64_t>{1}), "have 1, 2, 2 and 2 entries");
    refused(with_key("atlas.layer.index", std::vector<int64_t>{2, 3}), "no tensor 'atlas.memory.use.2'");
    refused(with_key("atlas.layer.kv_heads", std::vector<int64_t>{2, 1}), "is 4, due is 2");
    refused(with_key("atlas.layer.key_length", std::vector<int64_t>{8, 8}), "16 x 8 x 4, due is 8 x 8 x 4");
    refused(with_key("atlas.layer.key_length", std::vector<int64_t>{4000, 8}), "4001 features");
    refused(with_key("atlas.checksum", std::string("0123")), "atlas.checksum");

    const auto with_number = [&](const std::string& name, size_t at, float value) {
        SideCarContent content = good;
        for (SideCarTensor& tensor : content.tensors) {
            if (tensor.name == name) tensor.data.at(at) = value;
        }
        return written(content, "bad.gguf");
    };
    const float nan = std::numeric_limits<float>::quiet_NaN();
    refused(with_number("atlas.memory.weight1.1", 3, nan), "'atlas.memory.weight1.1': element 3 is NaN");
    refused(with_number("atlas.memory.covariance.3", 0, HUGE_VALF), "element 0 is infinite");
    refused(with_number("atlas.memory.gate.3", 0, 1.5f), "atlas.memory.gate.3 of head 0 is 1.5");
    refused(with_number("atlas.memory.gate.1", 0, -0.5f), "atlas.memory.gate.1 of head 0 is -0.5");
    refused(with_number("atlas.memory.scale.1", 0, 0.0f), "atlas.memory.scale.1 of head 0 is 0.0");
    refused(with_number("atlas.memory.use.1", 2, 7.0f), "atlas.memory.use.1 of head 2 is 7.0");
    refused(with_number("atlas.memory.mass_bias.1", 2, 90.0f), "atlas.memory.mass_bias.1 of head 2 is 90.0");
    refused(with_number("atlas.memory.residual.1", 2, 1.0f), "atlas.memory.residual.1 of head 2 is 1.0");
    refused(with_number("atlas.memory.weight1.1", 3, 0.25f), "atlas.checksum");

    SideCarContent less = good;
    less.tensors.pop_back();
    refused(written(less, "bad.gguf"), "no tensor 'atlas.feature.weights.3'");
    less = good;
    less.keys.erase("atlas.version");
    refused(written(less, "bad.gguf"), "not a side-car");
    less = good;
    less.keys.erase("atlas.layer_count");
    refused(written(less, "bad.gguf"), "no key 'atlas.layer_count'");

    refused(path("none.gguf"), "No such file");
    refused(folder_.string(), "not a regular file");
    refused(with_bytes("GGML and something"), "not a GGUF file");
    refused(with_bytes(""), "not a GGUF file");
}

/** What ggml's own reader ends the process at, or could be made to reserve without end. */
TEST_F(SideCarTest, HostileHeaders) {
    const auto number = [](uint64_t value, int bytes) {
        return std::string(reinterpret_cast<const char*>(&value), static_cast<size_t>(bytes));
    };
    const auto header = [&](uint64_t tensors, uint64_t keys) {
        return "GGUF" + number(3, 4) + number(tensors, 8) + number(keys, 8);
    };
    refused(with_bytes("GGUF" + number(9, 4) + number(0, 16 - 8) + number(0, 8)), "GGUF version 9");
    refused(with_bytes(header(0, 1) + number(0, 8) + number(4, 4) + number(1, 4)), "not a side-car");
    refused(with_bytes(header(0, 1) + number(~0ull, 8)), "ends behind the file");
    refused(with_bytes(header(~0ull, 0)), "tensors");
    refused(with_bytes(header(0, 1ull << 60)), "keys");
    refused(with_bytes(header(0, 1) + number(1, 8) + "a" + number(9, 4) + number(4, 4) + number(~0ull, 8)), "an array");
    refused(with_bytes(header(0, 1) + number(1, 8) + "a" + number(9, 4) + number(8, 4) + number(~0ull, 8)),
            "ends behind");
    refused(with_bytes(header(0, 1) + number(1, 8) + "a" + number(77, 4)), "a value of type 77");
    std::string nested = header(0, 1) + number(1, 8) + "a" + number(9, 4);
    for (int i = 0; i < 2000; ++i) nested += number(9, 4) + number(1, 8);
    refused(with_bytes(nested), "an array of type 9");
    refused(with_bytes(header(1, 0) + number(1, 8) + "t" + number(9, 4)), "9 dimensions");
    refused(with_bytes(header(1, 0) + number(1, 8) + "t" + number(1, 4) + number(~0ull, 8)), "a size of -1");
    refused(with_bytes(header(1, 0) + number(1, 8) + "t" + number(1, 4) + number(8, 8) + number(0, 4) +
                       number(~0ull - 8, 8)),
            "begins behind");
}

TEST_F(SideCarTest, FingerprintsTellModelsApart) {
    SideCarContent content;
    ASSERT_TRUE(encode_side_car(example({}), &content).is_ok());
    const auto print = [&](const SideCarContent& from) {
        uint64_t value = 0;
        EXPECT_TRUE(fingerprint_of(written(from), &value).is_ok());
        return value;
    };
    const uint64_t first = print(content);
    EXPECT_EQ(print(content), first);
    SideCarContent other = content;
    other.keys["general.name"] = std::string("another");
    EXPECT_NE(print(other), first);
    other = content;
    other.tensors.front().data.front() += 1.0f;
    EXPECT_NE(print(other), first);
    other = content;
    other.tensors.back().data.back() += 1.0f;
    EXPECT_NE(print(other), first);
    uint64_t value = 0;
    EXPECT_FALSE(fingerprint_of(path("none.gguf"), &value).is_ok());
    EXPECT_FALSE(fingerprint_of(with_bytes("no model"), &value).is_ok());
}

TEST_F(SideCarTest, TheModelIsLookedForInThisProcess) {
    SideCarContent model;
    model.keys["general.name"] = std::string("model");
    model.tensors.push_back({"weights", {4}, {1, 2, 3, 4}});
    const std::string file = written(model, "model.gguf");
    uint64_t value = 0;
    ASSERT_TRUE(fingerprint_of(file, &value).is_ok());
    EXPECT_NE(check_model(value, "").message().find("no model is mapped"), std::string::npos);
    EXPECT_TRUE(check_model(value, file).is_ok());
    EXPECT_NE(check_model(value + 1, file).message().find(file + " is " + fingerprint_text(value)), std::string::npos);
    EXPECT_NE(check_model(value, path("none.gguf")).message().find("No such file"), std::string::npos);
    {
        const std::ifstream open_side_car(written(example({})));
        EXPECT_TRUE(open_gguf_files().empty()) << "a side-car is no model";
    }
    const std::ifstream open(file);
    EXPECT_EQ(open_gguf_files(), std::vector<std::string>{fs::canonical(file).string()});
    EXPECT_TRUE(check_model(value, "").is_ok());
    EXPECT_NE(check_model(value + 1, "").message().find(fingerprint_text(value)), std::string::npos);
}

TEST(SideCarFitTest, APassOverTheLayersDecides) {
    SideCar side_car;
    side_car.layer_count = 4;
    side_car.layers = {{1, 2, 64, 64}, {3, 2, 64, 64}};
    const auto after = [&](std::vector<SideCarLayer> layers) {
        SideCarFit fit;
        for (const SideCarLayer& one : layers) EXPECT_FALSE(fit.see(one.layer, one.n_head_kv, one.d_k, one.d_v));
        const SideCarLayer& first = layers.front();
        EXPECT_TRUE(fit.see(first.layer, first.n_head_kv, first.d_k, first.d_v));
        EXPECT_FALSE(fit.see(first.layer, first.n_head_kv, first.d_k, first.d_v)) << "once";
        return fit.fits(side_car);
    };
    EXPECT_TRUE(after({{0, 8, 32, 32}, {1, 2, 64, 64}, {2, 2, 64, 64}, {3, 2, 64, 64}}).is_ok());
    EXPECT_TRUE(after({{2, 2, 64, 64}, {3, 2, 64, 64}}).is_ok()) << "the first layers run elsewhere";
    EXPECT_NE(after({{0, 2, 64, 64}, {1, 2, 64, 64}}).message().find("is 1, of the side-car 3"), std::string::npos);
    EXPECT_FALSE(after({{0, 2, 64, 64}, {1, 2, 64, 64}, {2, 2, 64, 64}, {3, 2, 64, 64}, {4, 2, 64, 64}}).is_ok());
    EXPECT_NE(after({{1, 4, 64, 64}, {3, 2, 64, 64}}).message().find("layer 1 has 4 KV heads of 64"),
              std::string::npos);
    EXPECT_FALSE(after({{1, 2, 64, 64}, {3, 2, 64, 32}}).is_ok());
}

}  // namespace
}  // namespace atlas::runtime
