#include "kernels/moments.h"

#include <gtest/gtest.h>

#include <random>

namespace atlas::kernels {
namespace {

TEST(CellsOfLanes, AreThoseWhoseFourBitsAreInTheSet) {
    std::mt19937 random(1);
    for (int round = 0; round < 50; ++round) {
        constexpr size_t kPages = 8;
        uint8_t members[kPages * 32];
        for (uint8_t& byte : members) byte = static_cast<uint8_t>(random());
        const uint16_t lanes = static_cast<uint16_t>(round == 0 ? 0 : round == 1 ? 0xFFFF : random());
        uint64_t cells[kPages];
        cells_of_lanes(members, kPages, lanes, cells);
        for (size_t page = 0; page < kPages; ++page) {
            for (size_t cell = 0; cell < 64; ++cell) {
                const int lane = members[page * 32 + cell % 32] >> (cell / 32 * 4) & 15;
                ASSERT_EQ(cells[page] >> cell & 1, static_cast<uint64_t>(lanes >> lane & 1)) << page << " " << cell;
            }
        }
    }
}

}  // namespace
}  // namespace atlas::kernels
