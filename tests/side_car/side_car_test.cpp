#include "side_car/side_car.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>

#include "../gguf/allocations.h"
#include "../gguf/files.h"
#include "gguf/fingerprint.h"
#include "gguf/reader.h"
#include "gguf/writer.h"
#include "memory/deep_memory.h"
#include "memory/feature_map.h"
#include "side_car/model_file.h"
#include "side_car/reading.h"
#include "side_car/use.h"
#include "side_car/writing.h"

namespace atlas::side_car {
namespace {

namespace fs = std::filesystem;
using attention::InitialMemory;
using memory::CorrectorState;

class SideCarTest : public test::FilesTest {
protected:
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
        gguf::Content content;
        EXPECT_TRUE(encode_side_car(side_car, &content).is_ok());
        return written(content, name);
    }
    std::string written(const gguf::Content& content, const std::string& name = "m.atlas.gguf") {
        const Status status = gguf::write(content, path(name), {gguf::Existing::kReplace, {}});
        EXPECT_TRUE(status.is_ok()) << status.to_string();
        return path(name);
    }

    /** Reading must fail with a text that has `named` in it, and leave the result alone. */
    void refused(const std::string& file, const std::string& named) {
        SideCar out;
        out.layer_count = 77;
        const Status status = read_side_car(file, kNoLimit, &out);
        ASSERT_FALSE(status.is_ok()) << named;
        EXPECT_NE(status.message().find(named), std::string::npos) << status.to_string();
        EXPECT_NE(status.message().find(file), std::string::npos) << status.to_string();
        EXPECT_EQ(status.message().find('\n'), std::string::npos);
        EXPECT_EQ(out.layer_count, 77);
    }

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
        const Status status = read_side_car(written(before), kNoLimit, &after);
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
    gguf::Content content;
    const Status status = encode_side_car(side_car, &content);
    EXPECT_NE(status.message().find("layer 3, head 0"), std::string::npos) << status.to_string();
}

TEST_F(SideCarTest, EveryTruncationIsRefused) {
    MemoryOptions options;
    options.features = MemoryFeatures::kIdentity;
    const std::string whole = bytes_of(written(example(options)));
    for (size_t n = 0; n < whole.size(); n += n < 4096 ? 1 : 97) {
        SideCar out;
        const Status status = read_side_car(with_bytes(whole.substr(0, n)), kNoLimit, &out);
        ASSERT_FALSE(status.is_ok()) << n << " of " << whole.size();
        ASSERT_NE(status.message().find("changed.gguf"), std::string::npos);
    }
}

/** Whatever a byte is changed to: a status, or a file that is still one. Data bytes are under the checksum. */
TEST_F(SideCarTest, ChangedBytesNeverEndTheProcess) {
    const std::string whole = bytes_of(written(example({})));
    gguf::Metadata file;
    ASSERT_TRUE(gguf::read(path("m.atlas.gguf"), &file).is_ok());
    for (int i = 0; i < 4000; ++i) {
        std::string bytes = whole;
        const size_t at = random_() % (i % 4 ? file.data_begin : bytes.size());
        bytes[at] = static_cast<char>(i % 3 ? random_() : 0xff);
        SideCar out;
        const bool same = bytes == whole;
        const Status status = read_side_car(with_bytes(bytes), kNoLimit, &out);
        uint64_t fingerprint = 0;
        (void)gguf::fingerprint_of(path("changed.gguf"), &fingerprint);
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
    gguf::Content good;
    ASSERT_TRUE(encode_side_car(example({}), &good).is_ok());
    const auto with_key = [&](const char* key, const gguf::Value& value) {
        gguf::Content content = good;
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
        gguf::Content content = good;
        for (gguf::Tensor& tensor : content.tensors) {
            if (tensor.name == name) std::get<std::vector<float>>(tensor.data).at(at) = value;
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

    gguf::Content less = good;
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
    refused(with_bytes(test::header(0, 1) + test::number(0, 8) + test::number(4, 4) + test::number(1, 4)),
            "not a side-car");
}

TEST_F(SideCarTest, ThresholdsComeBackAndBadOnesAreNamed) {
    SideCar before = example({});
    before.thresholds.weights["blk.0.ffn_down.weight"] = {1536, 576, {0.125f, 0.25f, 0.25f, 0.5f, 1.0f, 2.0f, 4.0f}};
    before.thresholds.weights["blk.10.attn_q.weight"] = {576, 192, {}};
    SideCar after;
    ASSERT_TRUE(read_side_car(written(before), kNoLimit, &after).is_ok());
    EXPECT_EQ(after.thresholds.weights, before.thresholds.weights);
    // A file of thresholds alone, as short documents give it.
    SideCar alone = before;
    alone.layers.clear();
    alone.memories.clear();
    alone.enabled = false;
    const std::string file = written(alone, "alone.gguf");
    ASSERT_TRUE(read_side_car(file, kNoLimit, &after).is_ok());
    EXPECT_EQ(after.thresholds.weights, before.thresholds.weights);
    ASSERT_TRUE(gguf::fingerprint_of(written(before, "model.gguf"), &alone.fingerprint).is_ok());
    SideCarUse use(written(alone, "own.gguf"), path("model.gguf"), kNoLimit);
    EXPECT_EQ(use.find(), nullptr) << "no head gained anything";
    ASSERT_NE(use.find_thresholds(), nullptr);
    EXPECT_EQ(use.find_thresholds()->weights, before.thresholds.weights);
    SideCarUse of_another(file, path("model.gguf"), kNoLimit);
    EXPECT_EQ(of_another.find_thresholds(), nullptr) << "of another model";
    SideCarUse without(written(example({}), "without.gguf"), path("model.gguf"), kNoLimit);
    EXPECT_EQ(without.find_thresholds(), nullptr);
    EXPECT_EQ(SideCarUse("", "", kNoLimit).find_thresholds(), nullptr);

    gguf::Content good;
    ASSERT_TRUE(encode_side_car(before, &good).is_ok());
    const auto with_shares = [&](const gguf::Value& shares) {
        gguf::Content content = good;
        content.keys["atlas.sparsity.shares"] = shares;
        return written(content, "bad.gguf");
    };
    refused(with_shares(std::vector<int64_t>{25, 40, 50}), "atlas.sparsity.shares is not the list of shares");
    refused(with_shares(int64_t{25}), "atlas.sparsity.shares is not the list of shares");
    const auto with_number = [&](size_t at, float value) {
        gguf::Content content = good;
        for (gguf::Tensor& tensor : content.tensors) {
            if (tensor.name == "atlas.sparsity.blk.0.ffn_down.weight")
                std::get<std::vector<float>>(tensor.data).at(at) = value;
        }
        return written(content, "bad.gguf");
    };
    refused(with_number(0, 0.0f), "of a matrix of 0.000000 x 576");
    refused(with_number(1, 2.5f), "of a matrix of 1536.000000 x 2.5");
    refused(with_number(2, -1.0f), "'atlas.sparsity.blk.0.ffn_down.weight': threshold -1.000000 for 10 %");
    refused(with_number(5, 0.2f), "threshold 0.200000 for 50 % behind 0.25");
    refused(with_number(4, std::numeric_limits<float>::quiet_NaN()), "element 4 is NaN");
    refused(with_number(8, HUGE_VALF), "element 8 is infinite");
    refused(with_number(8, 5.0f), "atlas.checksum");
    gguf::Content bad = good;
    bad.tensors.back().shape = {3};
    bad.tensors.back().data = std::vector<float>{1, 2, 3};
    refused(written(bad, "bad.gguf"), "'atlas.sparsity.blk.10.attn_q.weight'");
    bad = good;
    std::erase_if(bad.tensors, [](const gguf::Tensor& one) { return one.name.starts_with("atlas.sparsity."); });
    refused(written(bad, "bad.gguf"), "atlas.sparsity.shares without a threshold");
}

/** Lengths as large as the file says they may be: a file with a hole says anything. */
TEST_F(SideCarTest, PlantedSizesReserveNothing) {
    using test::header, test::number, test::text;
    constexpr uint64_t kHuge = uint64_t{1} << 40;
    constexpr size_t kFew = size_t{16} << 20;
    const auto bounded = [&](const std::string& file, uint64_t most, const std::string& named) {
        SideCar out;
        const test::AllocationLimit limit(kFew);
        const Status status = read_side_car(file, most, &out);
        EXPECT_NE(status.message().find(named), std::string::npos) << status.to_string();
        EXPECT_LT(limit.peak(), kFew) << named;
    };
    const std::string key = header(0, 1) + text("atlas.version");
    bounded(with_bytes(key + number(8, 4) + number(kHuge / 2, 8), kHuge), kNoLimit, "a text of 549755813888 bytes");
    bounded(with_bytes(key + number(9, 4) + number(5, 4) + number(kHuge / 8, 8), kHuge), kNoLimit, "an array of");
    bounded(with_bytes(key + number(9, 4) + number(8, 4) + number(kHuge / 8, 8), kHuge), kNoLimit,
            "ends behind 67108864 bytes of metadata");

    // Geometry that the file has room for, as far as its size tells.
    gguf::Content content;
    SideCar side_car = example({});
    ASSERT_TRUE(encode_side_car(side_car, &content).is_ok());
    const auto with_keys = [&](std::vector<std::pair<const char*, gguf::Value>> keys) {
        gguf::Content changed = content;
        for (auto& [name, value] : keys) changed.keys[name] = value;
        const std::string file = written(changed, "huge.gguf");
        fs::resize_file(file, kHuge);
        return file;
    };
    const std::vector<int64_t> many(2, 4096), wide(2, 1023);
    const std::string file = with_keys(
        {{"atlas.layer.kv_heads", many}, {"atlas.layer.key_length", wide}, {"atlas.layer.value_length", many}});
    bounded(file, uint64_t{300} << 20, "bytes, allowed is ATLAS_MEMORY_BUDGET=314572800");
    bounded(file, kNoLimit, "'atlas.memory.use.1' is 4, due is 4096");
    bounded(with_keys({{"atlas.memory_kind", std::string("gated")},
                       {"atlas.memory_dim", int64_t{1024}},
                       {"atlas.window_size", int64_t{1}}}),
            kNoLimit, "'atlas.memory.weight1.1' is 16 x 8 x 4, due is 1024 x 8 x 4");
}

TEST_F(SideCarTest, WhatDoesNotFitTheBudgetIsRefused) {
    const std::string file = written(example({}));
    SideCar out;
    const Status status = read_side_car(file, 1000, &out);
    EXPECT_NE(status.message().find("allowed is ATLAS_MEMORY_BUDGET=1000"), std::string::npos) << status.to_string();
    EXPECT_TRUE(read_side_car(file, 1 << 20, &out).is_ok());
}

/** Every byte of the metadata, and holes behind the file: one line or a side-car, and never much memory. */
TEST_F(SideCarTest, ChangedLengthsTakeNoMemory) {
    const std::string whole = bytes_of(written(example({})));
    gguf::Metadata good;
    ASSERT_TRUE(gguf::read(path("m.atlas.gguf"), &good).is_ok());
    for (size_t at = 0; at + 8 < good.data_begin; ++at) {
        std::string bytes = whole;
        bytes.replace(at, 8, test::number(at % 2 ? uint64_t{1} << 38 : ~0ull >> (at % 40), 8));
        const std::string file = with_bytes(bytes, uint64_t{1} << 40);
        SideCar out;
        const test::AllocationLimit limit(size_t{32} << 20);
        const Status status = read_side_car(file, uint64_t{300} << 20, &out);
        EXPECT_EQ(status.message().find('\n'), std::string::npos);
    }
}

TEST_F(SideCarTest, WritingNeverTouchesWhatIsNoSideCar) {
    const SideCar side_car = example({});
    gguf::Content model;
    model.keys["general.name"] = std::string("model");
    model.tensors.push_back({"weights", {4}, std::vector<float>{1, 2, 3, 4}});
    const std::string model_path = written(model, "model.gguf");
    const std::string precious = bytes_of(model_path);
    fs::create_hard_link(model_path, path("hard.gguf"));
    fs::create_symlink("model.gguf", path("soft.gguf"));
    written(model, "other.gguf");
    { std::ofstream(path("notes.txt")) << "precious"; }
    const auto refused_as = [&](const std::string& name, bool replace, const std::string& named) {
        for (const bool check : {true, false}) {
            const Target target{path(name), model_path, replace};
            const size_t before = files();
            const Status status = check ? check_target(target) : write_side_car(side_car, target);
            EXPECT_NE(status.message().find(named), std::string::npos) << name << ": " << status.to_string();
            EXPECT_EQ(files(), before);
            EXPECT_EQ(bytes_of(model_path), precious);
        }
    };
    for (const bool replace : {false, true}) {
        refused_as("model.gguf", replace, "is the model itself");
        refused_as("./model.gguf", replace, "is the model itself");
        refused_as("hard.gguf", replace, "is the model itself");
        refused_as("soft.gguf", replace, "is the model itself");
        refused_as("other.gguf", replace, "exists and is not a side-car");
        refused_as("notes.txt", replace, "exists and is not a side-car");
        refused_as("", replace, "no name of a file");
        refused_as("no/such.gguf", replace, "cannot be written: No such file or directory");
        refused_as("notes.txt/x.gguf", replace, "cannot be written: Not a directory");
    }
    EXPECT_FALSE(check_target({path("new.gguf"), path("none.gguf"), false}).is_ok()) << "no model";
    fs::create_directory(path("locked"));
    fs::permissions(path("locked"), fs::perms(0555));
    {
        const test::AsNobody nobody;
        refused_as("locked/new.gguf", false, "cannot be written: Permission denied");
    }
    ASSERT_TRUE(write_side_car(side_car, {path("new.gguf"), model_path, false}).is_ok());
    const std::string first = bytes_of(path("new.gguf"));
    refused_as("new.gguf", false, "exists already");
    EXPECT_EQ(bytes_of(path("new.gguf")), first);
    SideCar other = side_car;
    other.origin.model_name = "another";
    ASSERT_TRUE(write_side_car(other, {path("new.gguf"), model_path, true}).is_ok());
    SideCar back;
    ASSERT_TRUE(read_side_car(path("new.gguf"), kNoLimit, &back).is_ok());
    EXPECT_EQ(back.origin.model_name, "another");
}

TEST_F(SideCarTest, TheModelIsLookedForInThisProcess) {
    gguf::Content model;
    model.keys["general.name"] = std::string("model");
    model.tensors.push_back({"weights", {4}, std::vector<float>{1, 2, 3, 4}});
    const std::string file = written(model, "model.gguf");
    uint64_t value = 0;
    ASSERT_TRUE(gguf::fingerprint_of(file, &value).is_ok());
    EXPECT_NE(check_model(value, "").message().find("no model is mapped"), std::string::npos);
    EXPECT_TRUE(check_model(value, file).is_ok());
    EXPECT_NE(check_model(value + 1, file).message().find(file + " is " + gguf::fingerprint_text(value)),
              std::string::npos);
    EXPECT_NE(check_model(value, path("none.gguf")).message().find("No such file"), std::string::npos);
    {
        const std::ifstream open_side_car(written(example({})));
        EXPECT_TRUE(open_gguf_files().empty()) << "a side-car is no model";
    }
    const std::ifstream open(file);
    EXPECT_EQ(open_gguf_files(), std::vector<std::string>{fs::canonical(file).string()});
    EXPECT_TRUE(check_model(value, "").is_ok());
    EXPECT_NE(check_model(value + 1, "").message().find(gguf::fingerprint_text(value)), std::string::npos);
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
}  // namespace atlas::side_car
