#include "base/log.h"

#include <gtest/gtest.h>

namespace atlas {
namespace {

TEST(LogTest, PrintableTextStaysAsItIs) {
    EXPECT_EQ(printable(""), "");
    EXPECT_EQ(printable("layer 3: gemma-3 \"é\" — 日本 \U0001F600 \\"), "layer 3: gemma-3 \"é\" — 日本 \U0001F600 \\");
}

TEST(LogTest, ControlCharactersAndBrokenUtf8AreWrittenOut) {
    EXPECT_EQ(printable("a\x1b[31mred\x07\x7f"), "a\\x1b[31mred\\x07\\x7f");
    EXPECT_EQ(printable("one\natlas: [error] forged\r\t"), "one\\x0aatlas: [error] forged\\x0d\\x09");
    EXPECT_EQ(printable(std::string_view("a\0b", 3)), "a\\x00b");
    EXPECT_EQ(printable("\xc2\x9b"
                        "31m"),
              "\\xc2\\x9b31m")
        << "CSI as one character of C1";
    EXPECT_EQ(printable("\xff\xc0\xaf\xe2\x82"), "\\xff\\xc0\\xaf\\xe2\\x82")
        << "no UTF-8, an overlong slash, a cut one";
    EXPECT_EQ(printable("\xed\xa0\x80\xf4\x90\x80\x80"), "\\xed\\xa0\\x80\\xf4\\x90\\x80\\x80") << "beyond Unicode";
}

TEST(LogTest, NoMessageReachesTheTerminalAsItIs) {
    ::testing::internal::CaptureStderr();
    log().warn("side-car refused: '{}'", "general.name\x1b]0;title\x07\nnext");
    log().info("not at this level");
    EXPECT_EQ(::testing::internal::GetCapturedStderr(),
              "atlas: [warning] side-car refused: 'general.name\\x1b]0;title\\x07\\x0anext'\n");
}

TEST(LogTest, TheLevelIsSet) {
    ::testing::internal::CaptureStderr();
    set_log_level(LogLevel::kInfo);
    log().info("said");
    set_log_level(LogLevel::kOff);
    log().error("not said");
    set_log_level(LogLevel::kError);
    log().warn("not said");
    log().error("said too");
    set_log_level(LogLevel::kWarn);
    EXPECT_EQ(::testing::internal::GetCapturedStderr(), "atlas: [info] said\natlas: [error] said too\n");
}

}  // namespace
}  // namespace atlas
