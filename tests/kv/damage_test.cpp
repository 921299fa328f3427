#include "kv/damage.h"

#include <gtest/gtest.h>

#include <random>

namespace atlas::kv {
namespace {

TEST(Damage, AgreesWithAListOfRows) {
    Damage damage;
    std::vector<bool> rows(200);
    std::mt19937 rng(1);
    for (int step = 0; step < 4000; ++step) {
        const auto first = static_cast<int64_t>(rng() % rows.size());
        const auto end = std::min<int64_t>(first + static_cast<int64_t>(rng() % 30), 200);
        const bool add = rng() % 3 == 0;
        if (add) {
            damage.add(first, end, Status::internal("step"));
        } else {
            damage.remove(first, end);
        }
        bool any = false;
        for (int64_t row = 0; row < 200; ++row) {
            if (row >= first && row < end) rows[static_cast<size_t>(row)] = add;
            any = any || rows[static_cast<size_t>(row)];
            ASSERT_EQ(damage.overlaps(row, row + 1), rows[static_cast<size_t>(row)]) << step << ", row " << row;
        }
        ASSERT_EQ(damage.empty(), !any);
        ASSERT_EQ(damage.overlaps(0, 200), any);
        ASSERT_EQ(damage.reason().is_ok(), !any);
    }
}

TEST(Damage, KeepsTheFirstReasonUntilItEnds) {
    Damage damage;
    damage.add(0, 10, Status::io("first"));
    damage.add(20, 30, Status::io("second"));
    EXPECT_EQ(damage.reason().message(), "first");
    damage.remove(0, 30);
    EXPECT_TRUE(damage.reason().is_ok());
    damage.add(5, 6, Status::io("third"));
    EXPECT_EQ(damage.reason().message(), "third");
    damage.clear();
    EXPECT_TRUE(damage.empty());
    EXPECT_FALSE(damage.overlaps(0, 100));
}

}  // namespace
}  // namespace atlas::kv
