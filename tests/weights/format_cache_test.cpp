#include "weights/format_cache.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "kernels/row_codec.h"
#include "mapped_file.h"
#include "weights/format_store.h"

namespace atlas::weights {
namespace {

namespace fs = std::filesystem;
using kernels::WeightMatrix;
using kernels::WeightType;

constexpr int64_t kCols = 96;
constexpr auto kLayers = FormatStore::Part::kLayers;

void decode(WeightType type, const std::byte* row, int64_t cols, float* out) {
    const DataType known = type == WeightType::kF16    ? DataType::kF16
                           : type == WeightType::kQ8_0 ? DataType::kQ8_0
                           : type == WeightType::kQ5_1 ? DataType::kQ5_1
                                                       : DataType::kIQ4_NL;
    kernels::decode_rows({known, nullptr, row, 0, 1, cols}, out);
}

class FormatCacheTest : public testing::Test {
protected:
    FormatCacheTest() : file_(size_t{1} << 20) {
        std::vector<std::byte> halves(file_.bytes());
        for (size_t i = 0; i < halves.size(); i += 2) {
            const uint16_t half = kernels::f32_to_f16(static_cast<float>((i * 7919) % 1009) / 1009.0f - 0.5f);
            std::memcpy(halves.data() + i, &half, 2);
        }
        file_.write(0, halves);
        folder_ = file_.path() + ".cache";
        fs::create_directory(folder_);
    }
    ~FormatCacheTest() override { fs::remove_all(folder_); }

    WeightMatrix matrix(int i) const {
        return {WeightType::kF16, file_.memory() + static_cast<size_t>(i) * 20000 + 2, 50, kCols, kCols * 2};
    }
    std::vector<WeightMatrix> matrices(int n) const {
        std::vector<WeightMatrix> all;
        for (int i = 0; i < n; ++i) all.push_back(matrix(i));
        return all;
    }
    FormatSettings settings(const char* text = "int8") const {
        FormatSettings out;
        EXPECT_TRUE(parse_format(text, &out).is_ok());
        out.cache = folder_.string();
        return out;
    }

    /** What a process has that rounds `n` matrices; its words and bytes. */
    struct Seen {
        FormatStats stats;
        std::string log;
        std::vector<std::vector<std::byte>> rows;
        std::vector<bool> native;
    };
    Seen run(const FormatSettings& settings, int n, bool keep = true) {
        Seen seen;
        testing::internal::CaptureStderr();
        {
            FormatStore store(settings);
            store.add(file_.memory(), file_.bytes());
            const std::vector<WeightMatrix> all = matrices(n);
            store.round(kLayers, all, decode, 2);
            if (keep) store.keep();
            for (const WeightMatrix& one : all) {
                const WeightMatrix* const rounded = store.find(one.data);
                seen.native.push_back(rounded == nullptr);
                seen.rows.emplace_back();
                if (rounded)
                    seen.rows.back().assign(rounded->data,
                                            rounded->data + rounded->row_stride * static_cast<size_t>(rounded->rows));
            }
            seen.stats = store.stats();
            store.remove(file_.memory());
            EXPECT_EQ(store.stats().held_bytes, 0u);
        }
        seen.log = testing::internal::GetCapturedStderr();
        return seen;
    }
    std::vector<fs::path> files() const {
        std::vector<fs::path> all;
        for (const auto& entry : fs::directory_iterator(folder_)) all.push_back(entry.path());
        return all;
    }
    fs::path only_file() const {
        EXPECT_EQ(files().size(), 1u);
        return files().at(0);
    }
    static void change_byte(const fs::path& path, std::streamoff at) {
        std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
        file.seekg(at);
        const auto byte = static_cast<char>(file.get() ^ 1);
        file.seekp(at);
        file.put(byte);
        ASSERT_TRUE(file.good());
    }

    test::MappedFile file_;
    fs::path folder_;
};

TEST_F(FormatCacheTest, TheNextProcessReadsWhatTheFirstRounded) {
    const Seen first = run(settings(), 5);
    EXPECT_EQ(first.stats.cached, 0u);
    EXPECT_TRUE(only_file().string().ends_with(".int8.atlas-weights"));
    const Seen second = run(settings(), 5);
    EXPECT_EQ(second.stats.cached, 5u);
    EXPECT_EQ(second.stats.matrices, 5u);
    EXPECT_EQ(second.rows, first.rows);
    EXPECT_EQ(second.stats.bytes, first.stats.bytes);
    EXPECT_DOUBLE_EQ(second.stats.noise, first.stats.noise);
    EXPECT_EQ(second.log, "");
}

TEST_F(FormatCacheTest, WhatIsMissingIsAddedOnce) {
    (void)run(settings(), 3);
    const auto written = fs::last_write_time(only_file());
    const Seen second = run(settings(), 6);
    EXPECT_EQ(second.stats.cached, 3u);
    EXPECT_EQ(second.stats.matrices, 6u);
    EXPECT_NE(fs::last_write_time(only_file()), written);
    const auto again = fs::last_write_time(only_file());
    const Seen third = run(settings(), 6);
    EXPECT_EQ(third.stats.cached, 6u);
    EXPECT_EQ(third.rows, second.rows);
    EXPECT_EQ(fs::last_write_time(only_file()), again);  // nothing new: it is not written
}

TEST_F(FormatCacheTest, ChoicesOfAutoAreKept) {
    const Seen first = run(settings("auto:9"), 6);
    const Seen second = run(settings("auto:9"), 6);
    EXPECT_EQ(second.native, first.native);
    EXPECT_EQ(second.rows, first.rows);
    EXPECT_EQ(second.stats.cached, second.stats.matrices);
    // One that comes later pays the first process' price.
    const Seen third = run(settings("auto:9"), 7);
    EXPECT_EQ(third.stats.cached, first.stats.matrices);
}

TEST_F(FormatCacheTest, SettingsHaveFilesOfTheirOwn) {
    (void)run(settings("int8"), 3);
    EXPECT_EQ(run(settings("int5"), 3).stats.cached, 0u);
    EXPECT_EQ(files().size(), 2u);
    EXPECT_EQ(run(settings("int8"), 3).stats.cached, 3u);
}

/** Wherever a byte is not what was written: one line, and the same weights as without. */
TEST_F(FormatCacheTest, DamageIsSaidAndRoundedAnew) {
    const Seen first = run(settings(), 3);
    const auto size = static_cast<std::streamoff>(fs::file_size(only_file()));
    for (const std::streamoff at :
         {std::streamoff{0}, std::streamoff{9}, std::streamoff{20}, std::streamoff{30}, std::streamoff{36},
          std::streamoff{44}, std::streamoff{60}, std::streamoff{150}, std::streamoff{5000}, size - 1}) {
        change_byte(only_file(), at);
        const Seen second = run(settings(), 3);
        EXPECT_LT(second.stats.cached, 3u) << at;
        EXPECT_EQ(second.rows, first.rows) << at;
        EXPECT_NE(second.log.find("anew"), std::string::npos) << at << second.log;
        EXPECT_EQ(std::count(second.log.begin(), second.log.end(), '\n'), 1) << second.log;
        const Seen third = run(settings(), 3);
        EXPECT_EQ(third.stats.cached, 3u) << at;  // it was written anew
    }
    for (const std::streamoff length : {size - 1, std::streamoff{100}, std::streamoff{10}, std::streamoff{0}}) {
        fs::resize_file(only_file(), static_cast<uintmax_t>(length));
        const Seen second = run(settings(), 3);
        EXPECT_EQ(second.stats.cached, 0u) << length;
        EXPECT_EQ(second.rows, first.rows) << length;
        EXPECT_NE(second.log.find("not whole"), std::string::npos) << length << second.log;
    }
}

TEST_F(FormatCacheTest, AnotherModelsFileIsNotRead) {
    (void)run(settings(), 3);
    const fs::path name = only_file();
    std::vector<std::byte> halves(2, std::byte{0x11});
    file_.write(2, halves);  // the same size; another time and one weight
    const Seen second = run(settings(), 3);
    EXPECT_EQ(second.stats.cached, 0u);
    EXPECT_NE(second.log.find("another model or other settings"), std::string::npos) << second.log;
    (void)run(settings("int4"), 3);
    for (const fs::path& path : files())
        if (path != name) fs::rename(path, name);
    EXPECT_EQ(run(settings(), 3).stats.cached, 0u);
}

TEST_F(FormatCacheTest, WhereItCannotBeWrittenNothingIsLeft) {
    FormatSettings nowhere = settings();
    nowhere.cache = (folder_ / "missing").string();
    const Seen seen = run(nowhere, 3);
    EXPECT_EQ(seen.stats.matrices, 3u);
    EXPECT_NE(seen.log.find("not kept"), std::string::npos) << seen.log;
    EXPECT_NE(seen.log.find("missing"), std::string::npos) << seen.log;
    // A file that may not grow is a disk that is full.
    rlimit before{};
    ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
    const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
    const rlimit small{8192, before.rlim_max};
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
    const Seen full = run(settings(), 3);
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
    (void)std::signal(SIGXFSZ, old_handler);
    EXPECT_EQ(full.stats.matrices, 3u);
    EXPECT_NE(full.log.find("not kept"), std::string::npos) << full.log;
    EXPECT_TRUE(files().empty());
}

/** As hosts map a file: some parts of it each by itself. */
TEST_F(FormatCacheTest, MappingsOfOneFileShareIt) {
    for (int process = 0; process < 2; ++process) {
        FormatStore store(settings());
        const size_t half = file_.bytes() / 2;
        store.add(file_.memory(), half);
        store.add(file_.memory() + half, file_.bytes() - half);
        WeightMatrix late = matrix(0);
        late.data = file_.memory() + half + 2;
        for (const std::vector<WeightMatrix>& graph : {std::vector{matrix(0)}, std::vector{late}}) {
            store.round(kLayers, graph, decode, 2);
            store.keep();
        }
        EXPECT_EQ(store.stats().cached, process == 0 ? 0u : 2u);
        store.remove(file_.memory());
        EXPECT_EQ(store.find(matrix(0).data), nullptr);
        EXPECT_NE(store.find(late.data), nullptr);
    }
    EXPECT_EQ(files().size(), 1u);
    // What only an earlier process needed stays.
    (void)run(settings(), 4);
    EXPECT_EQ(run(settings(), 4).stats.cached, 4u);
    FormatStore store(settings());
    store.add(file_.memory(), file_.bytes());
    const std::vector<WeightMatrix> other = {matrix(9)};
    store.round(kLayers, other, decode, 2);
    store.keep();
    EXPECT_EQ(run(settings(), 4).stats.cached, 4u);
}

TEST_F(FormatCacheTest, FilesOfModelsWithOneNameAreApart) {
    EXPECT_EQ(cache_path("1", "/models/a.gguf", "int4+head"), "/models/a.gguf.int4+head.atlas-weights");
    const std::string here = cache_path("/cache", "/models/a.gguf", "int8");
    const std::string there = cache_path("/cache", "/others/a.gguf", "int8");
    EXPECT_TRUE(here.starts_with("/cache/a.gguf-")) << here;
    EXPECT_NE(here, there);
}

}  // namespace
}  // namespace atlas::weights
