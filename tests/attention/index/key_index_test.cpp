#include "attention/index/key_index.h"

#include <gtest/gtest.h>

#include "fixture.h"

namespace atlas::attention {
namespace {

void encode(const Scene& scene, KeyIndex& index, int64_t page) {
    std::vector<float> work;
    EXPECT_TRUE(index.reserve(page));
    index.begin(page);
    for (int64_t head = 0; head < index.n_heads(); ++head)
        index.update(page, head, scene.rows_of(scene.k, page, head).data(), scene.rows_of(scene.v, page, head).data(), &work);
    index.end(page);
}

TEST(KeyIndex, APageIsFreshUntilItIsWritten) {
    Scene scene(1024, 1);
    KeyIndex index = scene.make_index();
    EXPECT_FALSE(index.fresh(3));
    encode(scene, index, 3);
    EXPECT_TRUE(index.fresh(3));
    EXPECT_FALSE(index.fresh(4));
    scene.write_row(3 * 64 + 5, 1.0f);
    EXPECT_FALSE(index.fresh(3));
    encode(scene, index, 3);
    EXPECT_TRUE(index.fresh(3));
}

TEST(KeyIndex, APageThatIsNotFiniteIsNotUsableUntilItIsWrittenAgain) {
    Scene scene(1024, 1);
    KeyIndex index = scene.make_index();
    for (const float bad : {NAN, INFINITY}) {
        ASSERT_TRUE(scene.v.write(5 * 64 * 128 + 40, &bad, sizeof bad).is_ok());
        encode(scene, index, 5);
        EXPECT_FALSE(index.usable(5));
        scene.write_row(5 * 64, 1.0f);
        ASSERT_TRUE(scene.k.write(5 * 64 * 128 + 100, &bad, sizeof bad).is_ok());
        encode(scene, index, 5);
        EXPECT_FALSE(index.usable(5));
        scene.write_row(5 * 64, 1.0f);
        encode(scene, index, 5);
        EXPECT_TRUE(index.usable(5));
    }
}

/** The share of an f16 cache that the index takes once all pages are encoded, with all that belongs to it. */
TEST(KeyIndex, TakesAtMostNinePercentOfAnF16Cache) {
    for (const int64_t d : {64, 128, 256}) {
        Scene scene(4096, 1, 2, 2, d);
        KeyIndex index = scene.make_index();
        for (int64_t page = 0; page < index.pages(); ++page) encode(scene, index, page);
        EXPECT_LE(static_cast<double>(index.bytes()), 0.09 * static_cast<double>(4096 * 2 * 2 * d * 2)) << d;
    }
}

}  // namespace
}  // namespace atlas::attention
