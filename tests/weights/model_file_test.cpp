#include "weights/model_file.h"

#include <sys/stat.h>

#include <cstdio>
#include <cstring>
#include <fstream>

#include "mapped_file.h"

namespace atlas::weights {
namespace {

using test::MappedFile;

constexpr size_t kBytes = (300 << 10) + 100;

TEST(ModelFile, IsFoundBehindItsMapping) {
    const MappedFile mapped(kBytes);
    const size_t at = 5000;
    std::unique_ptr<ModelFile> file;
    const Status status = ModelFile::open(mapped.memory() + at, kBytes - at, &file);
    ASSERT_TRUE(status.is_ok()) << status.message();
    EXPECT_EQ(file->path(), mapped.path());
    EXPECT_EQ(file->offset_of(mapped.memory() + at), at);
    EXPECT_EQ(file->offset_of(mapped.memory() + at + 77), at + 77);
    EXPECT_TRUE(file->maps(mapped.memory() + at, kBytes - at));
    EXPECT_FALSE(file->maps(mapped.memory() + at, kBytes - at + 1));
    EXPECT_FALSE(file->maps(mapped.memory() + at - 1, 10));
    EXPECT_TRUE(file->check_unchanged().is_ok());
}

TEST(ModelFile, AMappingInPartsIsOneFile) {
    const MappedFile mapped(kBytes);
    // Advice about a part makes two entries of it.
    ASSERT_EQ(madvise(const_cast<std::byte*>(mapped.memory()) + (64 << 10), 64 << 10, MADV_RANDOM), 0);
    std::unique_ptr<ModelFile> file;
    const Status status = ModelFile::open(mapped.memory(), kBytes, &file);
    EXPECT_TRUE(status.is_ok()) << status.message();
}

TEST(ModelFile, MemoryIsNone) {
    const std::vector<std::byte> memory(kBytes);
    std::unique_ptr<ModelFile> file;
    EXPECT_EQ(ModelFile::open(memory.data(), kBytes, &file).code(), StatusCode::kUnsupported);
    EXPECT_EQ(file, nullptr);
}

TEST(ModelFile, BytesBehindTheMappingAreNone) {
    const MappedFile mapped(kBytes);
    std::unique_ptr<ModelFile> file;
    EXPECT_EQ(ModelFile::open(mapped.memory(), kBytes + (64 << 20), &file).code(), StatusCode::kUnsupported);
}

TEST(ModelFile, OneWithoutANameIsNamed) {
    const MappedFile mapped(kBytes);
    ASSERT_EQ(unlink(mapped.path().c_str()), 0);
    std::unique_ptr<ModelFile> file;
    const Status status = ModelFile::open(mapped.memory(), kBytes, &file);
    EXPECT_EQ(status.code(), StatusCode::kUnsupported);
    EXPECT_NE(status.message().find(mapped.path()), std::string::npos) << status.message();
}

TEST(ModelFile, AnotherFileOfThatNameIsRefused) {
    const MappedFile mapped(kBytes);
    ASSERT_EQ(unlink(mapped.path().c_str()), 0);
    // As the system shows the name of a mapped file that has none any more.
    const std::string other = mapped.path() + " (deleted)";
    std::ofstream(other) << std::string(kBytes, 'x');
    std::unique_ptr<ModelFile> file;
    const Status status = ModelFile::open(mapped.memory(), kBytes, &file);
    EXPECT_EQ(status.code(), StatusCode::kUnsupported);
    EXPECT_NE(status.message().find("is not the file"), std::string::npos) << status.message();
    std::remove(other.c_str());
}

TEST(ModelFile, ReplacedWhileOpenItIsStillTheOldOne) {
    const MappedFile mapped(kBytes);
    std::unique_ptr<ModelFile> file;
    ASSERT_TRUE(ModelFile::open(mapped.memory(), kBytes, &file).is_ok());
    std::ofstream(mapped.path() + ".new") << std::string(kBytes, 'x');
    ASSERT_EQ(std::rename((mapped.path() + ".new").c_str(), mapped.path().c_str()), 0);
    EXPECT_TRUE(file->check_unchanged().is_ok());
    std::vector<char> block(8192);
    char* aligned = block.data() + (4096 - reinterpret_cast<uintptr_t>(block.data()) % 4096) % 4096;
    ASSERT_EQ(pread(file->fd(), aligned, 4096, 0), 4096);
    EXPECT_EQ(std::memcmp(aligned, mapped.content().data(), 4096), 0);
}

TEST(ModelFile, ChangesAreSeen) {
    const MappedFile mapped(kBytes);
    std::unique_ptr<ModelFile> file;
    ASSERT_TRUE(ModelFile::open(mapped.memory(), kBytes, &file).is_ok());
    usleep(20000);  // a clock tick of the file system
    mapped.write(1000, {std::byte{1}});
    Status status = file->check_unchanged();
    EXPECT_EQ(status.code(), StatusCode::kIo);
    EXPECT_NE(status.message().find(mapped.path()), std::string::npos) << status.message();
    mapped.truncate(kBytes - 5000);
    status = file->check_unchanged();
    EXPECT_EQ(status.code(), StatusCode::kIo);
    EXPECT_NE(status.message().find(std::to_string(kBytes - 5000)), std::string::npos) << status.message();
}

TEST(ModelFile, DroppedBytesAreStillThere) {
    const MappedFile mapped(kBytes);
    std::unique_ptr<ModelFile> file;
    ASSERT_TRUE(ModelFile::open(mapped.memory(), kBytes, &file).is_ok());
    file->drop(mapped.memory() + 100, kBytes - 200);
    EXPECT_EQ(std::memcmp(mapped.memory(), mapped.content().data(), kBytes), 0);
}

}  // namespace
}  // namespace atlas::weights
