#include "attention/select/key_selector.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "attention/select/rest.h"
#include "fixture.h"

namespace atlas::attention {
namespace {

/** All far pages of a tile of the scene's last tokens, scored for one KV head. */
struct Scored {
    Scored(Scene& scene, const Settings& settings, int64_t head = 0) : index(scene.make_index()), call(scene.call()) {
        view.tokens = scene.args.n_tokens;
        classify_pages(call, settings, index, &view);
        std::vector<float> work;
        for (const int32_t page : view.selected_from) {
            EXPECT_TRUE(index.reserve(page));
            index.begin(page);
            for (int64_t h = 0; h < index.n_heads(); ++h)
                index.update(page, h, scene.rows_of(scene.k, page, h).data(), scene.rows_of(scene.v, page, h).data(), &work);
            index.end(page);
        }
        size_t part = 0;
        for (const int32_t page : view.selected_from) {
            if (view.use[static_cast<size_t>(page)] != PageUse::kFarPart) continue;
            const uint64_t cells = view.parts[part++];  // of one token
            if (cells == ~uint64_t{0}) continue;
            index.begin_part(page, cells);
            for (int64_t h = 0; h < index.n_heads(); ++h)
                index.update_part(page, cells, h, scene.rows_of(scene.v, page, h).data());
        }
        near.assign(static_cast<size_t>(scene.args.n_tokens * scene.args.n_head), 1.0f);
        scores.score(call, index, view, head, {near.data(), scene.args.n_head});
    }

    KeyIndex index;
    AttentionCall call;
    TileView view;
    std::vector<float> near;
    TileScores scores;
};

int64_t count(const std::vector<PageCells>& pages) {
    int64_t keys = 0;
    for (const PageCells& page : pages) keys += std::popcount(page.cells);
    return keys;
}

double logit(const Scene& scene, int64_t head, int64_t kv_head, int64_t key) {
    const auto rows = scene.rows_of(scene.k, key / 64, kv_head);
    double sum = 0.0;
    for (int64_t i = 0; i < scene.d; ++i)
        sum += static_cast<double>(scene.q[static_cast<size_t>(head * scene.d + i)]) *
               static_cast<double>(rows[static_cast<size_t>(key % 64 * scene.d + i)]);
    return sum * static_cast<double>(scene.args.scale);
}

TEST(TileScores, FollowTheLogits) {
    Scene scene(4096, 1, 4, 2, 64);
    Scored scored(scene, bare(), 1);
    double error = 0.0, square = 0.0, mean = 0.0;
    double n = 0.0;
    for (int64_t page = 0; page < scored.scores.pages(); ++page) {
        for (int64_t row = 0; row < 2; ++row) {
            for (int64_t cell = 0; cell < 64; ++cell, n += 1.0) {
                const double truth = logit(scene, 2 + row, 1, scored.scores.page_of(page) * 64 + cell);
                const float weight = scored.scores.weights(page)[row * 64 + cell];
                const double estimate = (std::log2(static_cast<double>(weight)) + static_cast<double>(scored.scores.shift(row))) * std::log(2.0);
                error += (estimate - truth) * (estimate - truth);
                mean += estimate - truth;
                square += truth * truth;
            }
        }
    }
    // Two bits lose 0.12 of a residual's square; the mean of a page carries a part of these keys.
    EXPECT_LT(error, 0.13 * square);
    EXPECT_LT(std::fabs(mean / n), 3.0 * std::sqrt(error / n / n) * 3.0);
}

TEST(TileScores, RowsThatReadNothingNearAndHugeLogitsStayFinite) {
    Scene scene(2048, 1);
    for (float& x : scene.q) x *= 400.0f;  // logits of several hundred
    Scored scored(scene, bare());
    for (const float near : {1.0f, -INFINITY, -2000.0f, 3000.0f}) {
        std::fill(scored.near.begin(), scored.near.end(), near);
        scored.scores.score(scored.call, scored.index, scored.view, 0, {scored.near.data(), 4});
        for (int64_t row = 0; row < scored.scores.rows(); ++row) {
            EXPECT_TRUE(std::isfinite(scored.scores.shift(row))) << near;
            double sum = 0.0;
            for (int64_t page = 0; page < scored.scores.pages(); ++page) sum += scored.scores.sums(page)[row];
            EXPECT_TRUE(std::isfinite(sum)) << near;
            EXPECT_EQ(sum > 0.0, near < 2000.0f) << near;
            EXPECT_LE(sum * static_cast<double>(scored.scores.factors()[row]), 1.0001) << near;
        }
    }
}

TEST(KeySelector, TakesTheBestKeysBetweenFloorAndBudget) {
    Scene scene(4096, 1);
    Scored scored(scene, bare());
    KeySelector selector;
    const auto keys = [&](const FarBudget& budget) {
        std::vector<PageCells> selected;
        selector.select(scored.scores, budget, &selected);
        return selected;
    };
    EXPECT_EQ(count(keys({100, 100, 0.0})), 100);
    EXPECT_EQ(count(keys({0, 0, 0.0})), 0);
    EXPECT_EQ(count(keys({100, 1000, 0.999})), 100) << "no key holds that much";
    EXPECT_EQ(count(keys({100, 1000, 1e-12})), 1000) << "all do";
    EXPECT_EQ(count(keys({1 << 20, 1 << 20, 0.0})), scored.scores.pages() * 64);
    // More of a budget never drops a key.
    const auto few = keys({50, 50, 0.0});
    const auto many = keys({200, 200, 0.0});
    for (const PageCells& page : few) {
        const auto at = std::find_if(many.begin(), many.end(), [&](const PageCells& other) { return other.key == page.key; });
        ASSERT_NE(at, many.end());
        EXPECT_EQ(page.cells & ~at->cells, 0u);
    }
}

TEST(KeySelector, AboveTheFloorItFollowsTheShare) {
    Scene scene(4096, 1, 2, 2);
    for (float& x : scene.q) x *= 3.0f;
    Scored scored(scene, bare());
    KeySelector selector;
    std::vector<PageCells> selected;
    selector.select(scored.scores, {0, 1 << 20, 0.002}, &selected);
    int64_t expected = 0;
    for (int64_t page = 0; page < scored.scores.pages(); ++page) {
        for (int64_t cell = 0; cell < 64; ++cell) {
            const double share = static_cast<double>(scored.scores.weights(page)[cell]) * static_cast<double>(scored.scores.factors()[0]);
            expected += share >= 0.002;
        }
    }
    EXPECT_EQ(count(selected), expected);
    EXPECT_GT(expected, 0);
}

TEST(Rest, WithNothingSelectedItIsCloseToAttentionOverAllFarKeys) {
    Scene scene(4096, 1, 2, 2, 64);
    Scored scored(scene, bare());
    float lse[1];
    std::vector<float> out(64);
    EXPECT_EQ(estimate_rest(scored.scores, {}, lse, out.data()), static_cast<double>(scored.scores.pages() * 64));
    double sum = 0.0;
    for (int64_t page = 0; page < scored.scores.pages(); ++page) {
        for (int64_t cell = 0; cell < 64; ++cell) sum += std::exp(logit(scene, 0, 0, scored.scores.page_of(page) * 64 + cell));
    }
    EXPECT_NEAR(lse[0], std::log(sum), 0.05);
}

TEST(Rest, OfAPageThatIsSeenInPartTheSeenKeysAreEstimated) {
    Scene scene(4096, 1);
    Scored whole(scene, bare());
    float lse[2], part_lse[2];
    std::vector<float> out(32), part_out(32);
    const double all = estimate_rest(whole.scores, {}, lse, out.data());
    scene.mask[1000] = 0xFC00;
    scene.summarize();
    Scored part(scene, bare());
    EXPECT_EQ(estimate_rest(part.scores, {}, part_lse, part_out.data()), all - 1.0);
    EXPECT_LT(part_lse[0], lse[0]);
    EXPECT_GT(part_lse[0], lse[0] - 0.1f);
    for (size_t i = 0; i < 32; ++i) EXPECT_NEAR(part_out[i], out[i], 0.02f) << i;
}

}  // namespace
}  // namespace atlas::attention
