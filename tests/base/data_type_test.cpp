#include "base/data_type.h"

#include <gtest/gtest.h>

namespace atlas {
namespace {

TEST(DataTypeTest, RowBytes) {
    EXPECT_EQ(row_bytes(DataType::kF32, 3), 12u);
    EXPECT_EQ(row_bytes(DataType::kF16, 128), 256u);
    EXPECT_EQ(row_bytes(DataType::kQ8_0, 128), 136u);
    EXPECT_EQ(row_bytes(DataType::kQ4_0, 64), 36u);
    EXPECT_EQ(row_bytes(DataType::kQ5_1, 64), 48u);
    EXPECT_STREQ(data_type_info(DataType::kIQ4_NL).name, "iq4_nl");
}

}  // namespace
}  // namespace atlas
