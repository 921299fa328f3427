#include "kernels/kernel_table.h"

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/cpu/amx/usable.h"
#include "kernels/description.h"

namespace atlas::kernels {
namespace {

/** A table is functions and nothing else. */
using Entries = std::array<void (*)(), sizeof(Table) / sizeof(void (*)())>;
static_assert(sizeof(Entries) == sizeof(Table));

Entries entries_of(const Table& table) { return std::bit_cast<Entries>(table); }

class KernelTable : public testing::Test {
protected:
    void TearDown() override { (void)select_kernel_variant("auto"); }
};

/** 1e8 + 1 − 1e8: 1 in float64, 0 in f32, so that it shows who has summed. */
float telling_product() {
    const std::vector<float> a{1e8f, 1.0f, -1e8f};
    const std::vector<float> ones{1.0f, 1.0f, 1.0f};
    float c = -1.0f;
    gemm({.m = 1, .n = 1, .k = 3, .a = {a.data(), 3}, .b = {ones.data(), 1}, .c = &c, .c_stride = 1});
    return c;
}

TEST_F(KernelTable, EveryEntryIsThere) {
    for (const Table* table : {&reference_table(), &cpu_table()}) {
        const Entries entries = entries_of(*table);
        for (size_t i = 0; i < entries.size(); ++i)
            EXPECT_NE(entries[i], nullptr) << table->variant() << " entry " << i;
    }
}

TEST_F(KernelTable, TheReferenceSharesNothingWithTheCpuButTheCheck) {
    const Entries reference = entries_of(reference_table());
    const Entries cpu = entries_of(cpu_table());
    for (size_t i = 0; i < reference.size(); ++i) {
        const bool is_check = std::memcmp(&reference[i], &reference_table().check_attention, sizeof(reference[i])) == 0;
        EXPECT_EQ(reference[i] == cpu[i], is_check) << i;
    }
}

TEST_F(KernelTable, TheForcedReferenceTakesEffect) {
    ASSERT_TRUE(select_kernel_variant("auto").is_ok());
    EXPECT_EQ(&table(), &cpu_table());
    EXPECT_EQ(telling_product(), 0.0f);
    ASSERT_TRUE(select_kernel_variant("reference").is_ok());
    EXPECT_EQ(&table(), &reference_table());
    EXPECT_STREQ(kernel_variant(), "reference");
    EXPECT_STREQ(kernel_description(), "reference");
    EXPECT_EQ(telling_product(), 1.0f);
    ASSERT_TRUE(select_kernel_variant("auto").is_ok());
    EXPECT_EQ(telling_product(), 0.0f);
}

/** The name is read in a kernel that was dispatched like all others. */
TEST_F(KernelTable, AForcedInstructionSetTakesEffect) {
    int forced = 0;
    for (const char* name : {"avx2", "avx512", "avx512_vnni", "avx512_bf16", "neon"}) {
        if (!select_kernel_variant(name).is_ok()) {
            EXPECT_EQ(&table(), &cpu_table());
            continue;
        }
        EXPECT_STREQ(kernel_variant(), name);
        EXPECT_STREQ(cpu_table().variant(), name);
        const std::string tiles = cpu::amx_usable() ? ", AMX tiles" : "";
        EXPECT_EQ(kernel_description(), name + tiles);
        EXPECT_TRUE(tiles.empty() || std::string(name) == "avx512_bf16") << name << ": a lesser set has no tiles";
        ++forced;
    }
    ASSERT_TRUE(select_kernel_variant("auto").is_ok());
    EXPECT_TRUE(forced > 0 || std::string(kernel_variant()) == "baseline") << kernel_variant();
}

TEST_F(KernelTable, AnUnknownVariantIsRefusedAndTheCpusOwnChoiceRuns) {
    ASSERT_TRUE(select_kernel_variant("reference").is_ok());
    const Status status = select_kernel_variant("avx1024");
    EXPECT_EQ(status.code(), StatusCode::kUnsupported);
    EXPECT_NE(status.message().find("avx1024"), std::string::npos) << status.message();
    EXPECT_NE(status.message().find("auto, reference"), std::string::npos) << status.message();
    EXPECT_EQ(&table(), &cpu_table());
}

TEST_F(KernelTable, WithoutCudaItsTableSaysWhy) {
    const Table* found = &reference_table();
    const Status status = cuda_table(&found);
    if (status.is_ok()) GTEST_SKIP() << "there is a GPU";
    EXPECT_EQ(status.code(), StatusCode::kUnsupported);
    EXPECT_NE(status.message().find("CUDA"), std::string::npos) << status.message();
    EXPECT_EQ(found, &reference_table());
    EXPECT_EQ(select_kernel_variant("cuda").message(), status.message());
    EXPECT_EQ(&table(), &cpu_table());
}

}  // namespace
}  // namespace atlas::kernels
