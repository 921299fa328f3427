#include "gguf/writer.h"

#include <signal.h>
#include <sys/resource.h>

#include <cmath>
#include <limits>

#include "files.h"
#include "gguf/reader.h"

namespace atlas::gguf {
namespace {

namespace fs = std::filesystem;

class WriterTest : public test::FilesTest {
protected:
    static Content small() {
        Content content;
        content.keys["general.name"] = std::string("small");
        content.tensors.push_back({"t", {2}, std::vector<float>{1, 2}});
        return content;
    }

    /** Fails, saying `named`; nothing but what was there is there. */
    void fails(const Content& content, const std::string& file, const std::string& named,
               const WriteOptions& options = {}) {
        const size_t before = files();
        const Status status = write(content, file, options);
        ASSERT_FALSE(status.is_ok()) << named;
        EXPECT_NE(status.message().find(named), std::string::npos) << status.to_string();
        EXPECT_EQ(files(), before);
    }
};

TEST_F(WriterTest, EverythingComesBack) {
    Content content;
    content.keys = {{"bool", true},
                    {"text", std::string("ü\0x", 4)},
                    {"empty", std::string()},
                    {"float", 0.1},
                    {"nan", std::numeric_limits<double>::quiet_NaN()},
                    {"u32", int64_t{UINT32_MAX}},
                    {"i64", int64_t{UINT32_MAX} + 1},
                    {"negative", int64_t{-5}},
                    {"list", std::vector<int64_t>{INT32_MIN, 0, INT32_MAX}},
                    {"no list", std::vector<int64_t>{}}};
    content.tensors = {{"f32", {3, 1, 2}, std::vector<float>{1, 2, 3, NAN, HUGE_VALF, -0.0f}},
                       {"f16", {5}, std::vector<uint16_t>{0x3c00, 1, 2, 3, 0xffff}},
                       {"i32", {2, 2, 1, 1}, std::vector<int32_t>{-1, 2, -3, INT32_MAX}}};
    ASSERT_TRUE(write(content, path("all.gguf")).is_ok());
    EXPECT_EQ(files(), 1u);
    Metadata read;
    ASSERT_TRUE(gguf::read(path("all.gguf"), &read).is_ok());
    EXPECT_EQ(read.keys.size(), content.keys.size());
    for (const char* name : {"bool", "text", "empty", "u32", "i64", "negative", "list", "no list"})
        EXPECT_EQ(read.keys.at(name), content.keys.at(name)) << name;
    EXPECT_EQ(read.keys.at("float"), Value(static_cast<double>(0.1f)));
    EXPECT_TRUE(std::isnan(std::get<double>(read.keys.at("nan"))));
    const std::string bytes = bytes_of(path("all.gguf"));
    EXPECT_EQ(bytes.size() % 32, 0u);
    const auto holds = [&](const char* name, uint32_t type, std::vector<int64_t> shape, const void* data, size_t n) {
        const TensorInfo& info = read.tensors.at(name);
        EXPECT_EQ(info.type, type);
        EXPECT_EQ(info.shape, shape);
        EXPECT_EQ(info.offset % 32, 0u);
        EXPECT_EQ(bytes.compare(info.offset, n, static_cast<const char*>(data), n), 0) << name;
    };
    holds("f32", 0, {3, 1, 2}, std::get<0>(content.tensors[0].data).data(), 24);
    holds("f16", 1, {5}, std::get<1>(content.tensors[1].data).data(), 10);
    holds("i32", 26, {2, 2, 1, 1}, std::get<2>(content.tensors[2].data).data(), 16);
}

TEST_F(WriterTest, ALargeFileComesBack) {
    Content content;
    std::vector<float> values((size_t{5} << 20) / 4 + 3);
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
    content.tensors.push_back({"t", {static_cast<int64_t>(values.size())}, values});
    ASSERT_TRUE(write(content, path("large.gguf")).is_ok());
    Metadata read;
    ASSERT_TRUE(gguf::read(path("large.gguf"), &read).is_ok());
    std::vector<float> back;
    ASSERT_TRUE(read_f32(read, "t", values.size(), &back).is_ok());
    EXPECT_EQ(back, values);
}

TEST_F(WriterTest, WhatCannotBeWrittenIsNamed) {
    const auto with_key = [](const std::string& key, const Value& value) {
        Content content = small();
        content.keys[key] = value;
        return content;
    };
    const auto with_tensor = [](Tensor tensor) {
        Content content = small();
        content.tensors.push_back(std::move(tensor));
        return content;
    };
    const std::string file = path("bad.gguf");
    fails(with_key("", true), file, "key '' is empty");
    fails(with_key("k", Value()), file, "key 'k' has no value");
    fails(with_key("general.alignment", int64_t{64}), file, "the writer's own");
    fails(with_key("k", std::string(5000, 'x')), file, "key 'k' has 5000 bytes of text, allowed are 4096");
    fails(with_key("k", std::vector<int64_t>{int64_t{1} << 31}), file, "beyond 32 bits");
    fails(with_tensor({"", {1}, std::vector<float>{1}}), file, "a name has 1 to 63 bytes");
    fails(with_tensor({std::string(64, 'n'), {1}, std::vector<float>{1}}), file, "a name has 1 to 63 bytes");
    fails(with_tensor({"t", {1}, std::vector<float>{1}}), file, "tensor 't' for a second time");
    fails(with_tensor({"x", {}, std::vector<float>{1}}), file, "0 dimensions");
    fails(with_tensor({"x", {1, 1, 1, 1, 1}, std::vector<float>{1}}), file, "5 dimensions");
    fails(with_tensor({"x", {2}, std::vector<float>{1}}), file, "has 1 elements, its shape 2");
    fails(with_tensor({"x", {0}, std::vector<float>{}}), file, "a size of 0");
    fails(with_tensor({"x", {int64_t{1} << 40, int64_t{1} << 40}, std::vector<float>{}}), file,
          "a size of 1099511627776");
}

TEST_F(WriterTest, AnExistingFileIsReplacedOnlyWhenAsked) {
    const std::string file = path("there.gguf");
    { std::ofstream(file) << "precious"; }
    fails(small(), file, "there.gguf: cannot be written: File exists");
    EXPECT_EQ(bytes_of(file), "precious");
    ASSERT_TRUE(write(small(), file, {Existing::kReplace, {}}).is_ok());
    EXPECT_EQ(bytes_of(file).substr(0, 4), "GGUF");
    EXPECT_EQ(files(), 1u);
}

/** A file that appears between the check and the end stays, too. */
TEST_F(WriterTest, AFileThatAppearsMeanwhileStays) {
    const std::string file = path("late.gguf");
    const Status status = write(small(), file, {Existing::kKeep, [&](const std::string&) {
                                                    std::ofstream(file) << "precious";
                                                    return Status::ok();
                                                }});
    EXPECT_NE(status.message().find("File exists"), std::string::npos) << status.to_string();
    EXPECT_EQ(bytes_of(file), "precious");
    EXPECT_EQ(files(), 1u);
}

TEST_F(WriterTest, TheCheckSeesTheWholeFileBeforeItHasItsName) {
    const std::string file = path("checked.gguf");
    { std::ofstream(file) << "precious"; }
    std::string seen;
    fails(small(), file, "checked.gguf: not written: no good", {Existing::kReplace, [&](const std::string& temporary) {
                                                                    seen = temporary;
                                                                    Metadata read;
                                                                    EXPECT_TRUE(gguf::read(temporary, &read).is_ok());
                                                                    EXPECT_EQ(read.keys.at("general.name"),
                                                                              Value(std::string("small")));
                                                                    EXPECT_EQ(bytes_of(file), "precious");
                                                                    return Status::corrupt("no good");
                                                                }});
    EXPECT_EQ(fs::path(seen).parent_path(), folder_) << "the same folder, so that a rename is enough";
    EXPECT_EQ(bytes_of(file), "precious");
}

TEST_F(WriterTest, FoldersThatCannotBeWritten) {
    fails(small(), path("no/such/m.gguf"), "m.gguf: cannot be written: No such file or directory");
    { std::ofstream(path("file")) << "x"; }
    fails(small(), path("file/m.gguf"), "cannot be written: Not a directory");
    fails(small(), path("folder/"), "is no name of a file");
    fails(small(), "", "is no name of a file");
    fs::create_directory(path("taken"));
    fails(small(), path("taken"), "cannot be written", {Existing::kReplace, {}});
    fails(small(), path(std::string(300, 'n')), "File name too long");
    fs::create_directory(path("locked"));
    fs::permissions(path("locked"), fs::perms(0555));
    const test::AsNobody nobody;
    fails(small(), path("locked/m.gguf"), "Permission denied");
}

/** A disk that is full in the middle. */
TEST_F(WriterTest, AFullDiskLeavesWhatWasThere) {
    const std::string file = path("full.gguf");
    { std::ofstream(file) << "precious"; }
    Content content = small();
    content.tensors.push_back({"large", {1 << 20}, std::vector<float>(1 << 20, 1.0f)});
    const auto handler = signal(SIGXFSZ, SIG_IGN);
    rlimit before{};
    ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
    const rlimit small_files{(size_t{3} << 20) + 100, before.rlim_max};
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small_files), 0);
    fails(content, file, "full.gguf: cannot be written: File too large", {Existing::kReplace, {}});
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, handler);
    EXPECT_EQ(bytes_of(file), "precious");
    ASSERT_TRUE(write(content, file, {Existing::kReplace, {}}).is_ok());
}

TEST_F(WriterTest, ALinkIsReplacedNotWhatItPointsTo) {
    { std::ofstream(path("model")) << "precious"; }
    fs::create_symlink("model", path("link.gguf"));
    fails(small(), path("link.gguf"), "File exists");
    ASSERT_TRUE(write(small(), path("link.gguf"), {Existing::kReplace, {}}).is_ok());
    EXPECT_EQ(bytes_of(path("model")), "precious");
    EXPECT_FALSE(fs::is_symlink(path("link.gguf")));
}

}  // namespace
}  // namespace atlas::gguf
