#if defined(__x86_64__)
#include <immintrin.h>

#include <array>
#include <cstring>

#include "kernels/cpu/amx/usable.h"
#include "variant_test.h"

namespace atlas::kernels {
namespace {

using Shapes = std::array<uint8_t, 64>;

__attribute__((target("amx-tile"))) void shape_tiles(const Shapes& shapes) { _tile_loadconfig(shapes.data()); }
__attribute__((target("amx-tile"))) Shapes shapes_of_tiles() {
    Shapes shapes{};
    _tile_storeconfig(shapes.data());
    return shapes;
}
__attribute__((target("amx-tile"))) void release_tiles() { _tile_release(); }

/** The host's CPU backend shapes its tiles once per thread and shares its threads with us. */
TEST(WeightsOnTiles, LeaveTheThreadsTilesInTheirShapes) {
    if (!cpu::amx_usable()) GTEST_SKIP() << "not on this processor";
    Shapes shapes{1};
    shapes[16] = 32;  // bytes per row of tile 0
    shapes[48] = 7;   // its rows
    for (const WeightType type : {WeightType::kQ8_0, WeightType::kQ4_K, WeightType::kBF16, WeightType::kF16}) {
        const ActivationType activations = weight_type_info(type).activations;
        constexpr int64_t kCols = 256, kRows = 5, kColumns = 20;
        const std::vector<float> x(kCols * kColumns, 1.0f);
        const std::vector<std::byte> weights(weight_row_bytes(type, kCols) * kRows);
        auto* quantised =
            static_cast<std::byte*>(std::aligned_alloc(64, activation_bytes(activations, kCols, kColumns)));
        std::vector<float> out(kRows * kColumns);
        quantise_activations({activations, kCols, x.data(), kCols * 4, quantised}, 0, kColumns);
        const WeightProduct product{.weights = {type, weights.data(), kRows, kCols, weight_row_bytes(type, kCols)},
                                    .activations = quantised,
                                    .n = kColumns,
                                    .out = out.data(),
                                    .out_stride = kRows};
        shape_tiles(shapes);
        multiply_weights(product, 0, kRows);
        EXPECT_EQ(shapes_of_tiles(), shapes) << weight_type_info(type).name;
        release_tiles();
        multiply_weights(product, 0, kRows);
        EXPECT_EQ(shapes_of_tiles(), Shapes{}) << weight_type_info(type).name;
        std::free(quantised);
    }
}

/** A forced lesser instruction set goes without tiles. */
TEST(WeightsOnTiles, AreNotUsedUnderAForcedVariant) {
    if (!cpu::amx_usable()) GTEST_SKIP() << "not on this processor";
    ASSERT_TRUE(select_kernel_variant("avx2").is_ok());
    EXPECT_FALSE(cpu::amx_usable());
    ASSERT_TRUE(select_kernel_variant("auto").is_ok());
    EXPECT_TRUE(cpu::amx_usable());
}

}  // namespace
}  // namespace atlas::kernels
#endif
