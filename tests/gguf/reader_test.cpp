#include "gguf/reader.h"

#include <cmath>
#include <limits>
#include <random>
#include <sys/stat.h>

#include "allocations.h"
#include "files.h"
#include "gguf/fingerprint.h"
#include "gguf/printable.h"
#include "gguf/writer.h"

namespace atlas::gguf {
namespace {

using test::AllocationLimit;
using test::header;
using test::number;
using test::text;

constexpr uint64_t kHuge = uint64_t{1} << 40;  // of a file with a hole
constexpr size_t kFew = size_t{8} << 20;

class ReaderTest : public test::FilesTest {
protected:
    /** Reading must fail, with a text of one line that has `named` in it, without much memory. */
    void refused(const std::string& file, const std::string& named) {
        Metadata out;
        out.bytes = 77;
        const AllocationLimit limit(kFew);
        const Status status = read(file, &out);
        ASSERT_FALSE(status.is_ok()) << named;
        EXPECT_NE(status.message().find(named), std::string::npos) << status.to_string();
        EXPECT_EQ(status.message().find('\n'), std::string::npos);
        EXPECT_EQ(out.bytes, 77u);
        EXPECT_LT(limit.peak(), kFew);
    }

    std::string example() {
        Content content;
        content.keys = {{"general.architecture", std::string("example")},
                        {"a.bool", true},
                        {"a.list", std::vector<int64_t>{1, 2, 3}},
                        {"a.number", 0.5},
                        {"a.whole", int64_t{7}}};
        content.tensors = {{"first", {3, 2}, std::vector<float>{1, 2, 3, 4, 5, 6}},
                           {"second", {5}, std::vector<int32_t>{1, 2, 3, 4, 5}}};
        EXPECT_TRUE(write(content, path("example.gguf"), {Existing::kReplace, {}}).is_ok());
        return path("example.gguf");
    }
};

/** What ggml's own reader ends the process at, or could be made to reserve without end. */
TEST_F(ReaderTest, HostileHeaders) {
    const std::string key = header(0, 1) + text("a");
    refused(with_bytes(""), "not a GGUF file");
    refused(with_bytes("GGML and something"), "not a GGUF file");
    refused(with_bytes(header(0, 0, 9)), "GGUF version 9");
    refused(with_bytes(header(0, 1) + number(~0ull, 8)), "a key of 18446744073709551615 bytes, allowed are 65535");
    refused(with_bytes(header(~0ull, 0)), "tensors");
    refused(with_bytes(header(0, 1ull << 60)), "keys");
    refused(with_bytes(key + number(9, 4) + number(4, 4) + number(~0ull, 8)),
            "an array of 18446744073709551615 values");
    refused(with_bytes(key + number(9, 4) + number(8, 4) + number(~0ull, 8)), "ends behind");
    refused(with_bytes(key + number(77, 4)), "a value of type 77");
    std::string nested = key + number(9, 4);
    for (int i = 0; i < 2000; ++i) nested += number(9, 4) + number(1, 8);
    refused(with_bytes(nested), "an array of type 9");
    const std::string tensor = header(1, 0) + text("t");
    refused(with_bytes(tensor + number(9, 4)), "9 dimensions");
    refused(with_bytes(tensor + number(1, 4) + number(~0ull, 8)), "a size of -1");
    refused(with_bytes(tensor + number(1, 4) + number(8, 8) + number(0, 4) + number(~0ull - 8, 8)), "begins behind");
    refused(with_bytes(tensor + number(2, 4) + number(1ull << 40, 8) + number(1ull << 40, 8) + number(0, 12)),
            "more than 2^63 elements");
    refused(
        with_bytes(header(0, 2) + text("a") + number(7, 4) + number(1, 1) + text("a") + number(7, 4) + number(1, 1)),
        "key 'a' for a second time");
    const std::string one = text("t") + number(1, 4) + number(1, 8) + number(0, 12);
    refused(with_bytes(header(2, 0) + one + one), "tensor 't' for a second time");
}

/** The file's size says nothing: it may have a hole of a terabyte. */
TEST_F(ReaderTest, HugeCountsInHugeFilesReserveNothing) {
    const std::string key = header(0, 1) + text("a");
    refused(with_bytes(key + number(8, 4) + number(kHuge / 2, 8), kHuge), "ends behind 67108864 bytes of metadata");
    refused(with_bytes(header(0, 1) + number(kHuge / 2, 8), kHuge), "a key of");
    refused(with_bytes(header(1, 0) + number(kHuge / 2, 8), kHuge), "a tensor's name of");
    refused(with_bytes(key + number(9, 4) + number(5, 4) + number(kHuge / 8, 8), kHuge), "an array of");
    refused(with_bytes(key + number(9, 4) + number(10, 4) + number(1 << 28, 8), kHuge), "an array of 268435456 values");
    // Texts of no length, eight bytes each: bounded by what metadata may have, so that reading ends.
    refused(with_bytes(key + number(9, 4) + number(8, 4) + number(1ull << 36, 8), kHuge), "ends behind 67108864");
}

/** Many values that are small enough one by one. */
TEST_F(ReaderTest, WhatIsKeptIsBounded) {
    std::string bytes = header(0, 100);
    for (int i = 0; i < 100; ++i)
        bytes += text("k" + std::to_string(i)) + number(9, 4) + number(0, 4) + number(kMostElements, 8) +
                 std::string(kMostElements, '\1');
    Metadata out;
    const AllocationLimit limit(2 * kMostKept);
    const Status status = read(with_bytes(bytes), &out);
    EXPECT_NE(status.message().find("more than 33554432 bytes of metadata"), std::string::npos) << status.to_string();
    EXPECT_LT(limit.peak(), kMostKept + kFew);
}

TEST_F(ReaderTest, LongTextsAndArraysArePassedOver) {
    const std::string many(kMostElements + 1, '\1');
    Metadata out;
    ASSERT_TRUE(read(with_bytes(header(0, 3) + text("a") + number(8, 4) + text(std::string(kMostTextBytes + 1, 'x')) +
                                text("b") + number(9, 4) + number(0, 4) + number(many.size(), 8) + many + text("c") +
                                number(8, 4) + text("here")),
                     &out)
                    .is_ok());
    EXPECT_EQ(out.keys.at("a"), Value());
    EXPECT_EQ(out.keys.at("b"), Value());
    EXPECT_EQ(out.keys.at("c"), Value(std::string("here")));
}

TEST_F(ReaderTest, EveryTruncationIsRefused) {
    const std::string whole = bytes_of(example());
    for (size_t n = 0; n < whole.size(); ++n) {
        Metadata file;
        std::vector<float> values;
        Status status = read(with_bytes(whole.substr(0, n)), &file);
        if (status.is_ok()) status = read_f32(file, "first", 6, &values);
        // What is left of the last tensor is found out by who reads it.
        if (status.is_ok()) {
            EXPECT_GE(n, file.tensors.at("first").offset + 24) << n;
        }
    }
}

TEST_F(ReaderTest, ChangedBytesNeverEndTheProcessOrTakeMemory) {
    const std::string whole = bytes_of(example());
    Metadata good;
    ASSERT_TRUE(read(path("example.gguf"), &good).is_ok());
    std::mt19937_64 random(7);
    for (int i = 0; i < 6000; ++i) {
        std::string bytes = whole;
        for (int changes = 1 + i % 3; changes > 0; --changes) {
            const size_t at = random() % good.data_begin;
            // Single bytes, and whole numbers as large as they can be.
            if (i % 2)
                bytes[at] = static_cast<char>(random());
            else
                bytes.replace(at, 8, number(i % 4 ? ~0ull >> (random() % 64) : random(), 8));
        }
        bytes.resize(whole.size());
        // A file with a hole behind it has room for whatever a length says.
        const std::string file = with_bytes(bytes, i % 5 == 0 ? kHuge : 0);
        const AllocationLimit limit(kFew);
        Metadata out;
        if (!read(file, &out).is_ok()) continue;
        for (const auto& [name, tensor] : out.tensors) {
            std::vector<float> values;
            (void)read_f32(out, name, 6, &values);
        }
    }
}

TEST_F(ReaderTest, TensorsAreReadWhereTheyAreWhole) {
    Metadata file;
    ASSERT_TRUE(read(example(), &file).is_ok());
    std::vector<float> values;
    ASSERT_TRUE(read_f32(file, "first", 6, &values).is_ok());
    EXPECT_EQ(values, (std::vector<float>{1, 2, 3, 4, 5, 6}));
    EXPECT_NE(read_f32(file, "second", 6, &values).message().find("'second' has type 26, allowed is 0"),
              std::string::npos);
    EXPECT_NE(read_f32(file, "third", 6, &values).message().find("no tensor 'third'"), std::string::npos);
    EXPECT_NE(read_f32(file, "first", 5, &values).message().find("has 6 elements, due are 5 at most"),
              std::string::npos);
    file.tensors["first"].elements = 1 << 20;
    EXPECT_NE(read_f32(file, "first", 1 << 20, &values).message().find("ends behind the file"), std::string::npos);
}

TEST_F(ReaderTest, OnlyRegularFilesAreRead) {
    Metadata out;
    EXPECT_NE(read(path("none.gguf"), &out).message().find("No such file"), std::string::npos);
    EXPECT_NE(read(folder_.string(), &out).message().find("not a regular file"), std::string::npos);
    ASSERT_EQ(mkfifo(path("pipe").c_str(), 0600), 0);
    EXPECT_NE(read(path("pipe"), &out).message().find("not a regular file"), std::string::npos) << "and does not wait";
    EXPECT_NE(read("/dev/zero", &out).message().find("not a regular file"), std::string::npos);
}

TEST_F(ReaderTest, MessagesHaveNoControlCharacters) {
    Metadata out;
    const std::string nasty = "\x1b[31mred\n\xff";
    const Status status = read(with_bytes(header(1, 0) + text(nasty) + number(9, 4)), &out);
    EXPECT_NE(status.message().find("tensor '\\x1b[31mred\\x0a\\xff' with 9"), std::string::npos) << status.message();
    EXPECT_EQ(read(path("a\nb"), &out).message(), path("a\\x0ab") + ": No such file or directory");
}

TEST(PrintableTest, EscapesWhatIsNotText) {
    EXPECT_EQ(printable("plain text, 100 % – ü 漢 🙂"), "plain text, 100 % – ü 漢 🙂");
    EXPECT_EQ(printable(std::string_view("\0\t\x7f", 3)), "\\x00\\x09\\x7f");
    EXPECT_EQ(printable("\xc2\x9b"
                        "31m"),
              "\\xc2\\x9b31m")
        << "C1: starts an escape sequence in some terminals";
    EXPECT_EQ(printable("\xc3"), "\\xc3");
    EXPECT_EQ(printable("\xc0\xaf\xf8"), "\\xc0\\xaf\\xf8");
    EXPECT_EQ(printable(std::string(100, 'a'), 10), std::string(10, 'a') + "…");
    EXPECT_EQ(printable(std::string(10, 'a'), 10), std::string(10, 'a'));
}

TEST_F(ReaderTest, FingerprintsTellFilesApart) {
    Content content;
    content.keys["general.name"] = std::string("one");
    content.tensors = {{"first", {2}, std::vector<float>{1, 2}}, {"last", {2}, std::vector<float>{3, 4}}};
    const auto print = [&] {
        uint64_t value = 0;
        EXPECT_TRUE(write(content, path("model.gguf"), {Existing::kReplace, {}}).is_ok());
        EXPECT_TRUE(fingerprint_of(path("model.gguf"), &value).is_ok());
        return value;
    };
    const uint64_t first = print();
    EXPECT_EQ(print(), first);
    content.keys["general.name"] = std::string("another");
    const uint64_t renamed = print();
    EXPECT_NE(renamed, first);
    std::get<std::vector<float>>(content.tensors.back().data).back() += 1.0f;
    EXPECT_NE(print(), renamed);
    uint64_t value = 0;
    EXPECT_FALSE(fingerprint_of(path("none.gguf"), &value).is_ok());
    EXPECT_FALSE(fingerprint_of(with_bytes("no model"), &value).is_ok());
    EXPECT_EQ(fingerprint_text(0xab), "00000000000000ab");
}

}  // namespace
}  // namespace atlas::gguf
