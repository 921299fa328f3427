#include "base/status.h"

#include <gtest/gtest.h>

namespace atlas {
namespace {

TEST(StatusTest, OkHasNoMessage) {
    EXPECT_TRUE(Status::ok().is_ok());
    EXPECT_EQ(Status::ok().to_string(), "ok");
}

TEST(StatusTest, ErrorsNameTheirCode) {
    const Status status = Status::out_of_memory("page of 64 cells");
    EXPECT_FALSE(status.is_ok());
    EXPECT_EQ(status.code(), StatusCode::kOutOfMemory);
    EXPECT_EQ(status.to_string(), "out of memory: page of 64 cells");
    EXPECT_EQ(Status::corrupt("x").to_string(), "corrupt data: x");
    EXPECT_EQ(Status::io("x").to_string(), "i/o error: x");
    EXPECT_EQ(Status::internal("x").to_string(), "internal error: x");
    EXPECT_EQ(Status::unsupported("x").to_string(), "unsupported: x");
}

}  // namespace
}  // namespace atlas
