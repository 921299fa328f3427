#include <cstring>

#include "kernels/cpu/weights/amx/tile_panel.h"
#include "kernels/levels.h"

// Blocks of 32: types are described at their decoders in reference/weights.cpp.

namespace atlas::kernels::cpu {
namespace {

constexpr int8_t kPlain[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
constexpr int8_t kLess8[16] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};

/** 32 codes of 16 bytes of nibbles, low ones first. */
ATLAS_AMX_INLINE __m256i Nibbles(const uint8_t* from, __m256i levels) {
    const __m256i both = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    const __m256i shifts = _mm256_set_epi64x(0x0004000400040004, 0x0004000400040004, 0, 0);
    const __m256i codes = _mm256_and_si256(_mm256_srlv_epi16(both, shifts), _mm256_set1_epi8(15));
    return _mm256_shuffle_epi8(levels, codes);
}
ATLAS_AMX_INLINE __mmask32 Word32(const uint8_t* from) {
    uint32_t bits;
    std::memcpy(&bits, from, sizeof bits);
    return bits;
}

/** Types with nibbles at the end of their blocks. kFifth: bits that add 16, `kBias` less in any case. */
template <size_t kBytes, const int8_t (&kLevels)[16], bool kFifth = false, int kBias = 0>
struct NibbleBlock {
    static constexpr size_t kSize = kBytes;
    static ATLAS_AMX_INLINE __m256i Codes(const uint8_t* block) {
        const __m256i levels = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(kLevels)));
        const __m256i codes = Nibbles(block + kBytes - 16, levels);
        if (!kFifth) return codes;
        const __mmask32 fifth = Word32(block + kBytes - 20);
        if (kBias == 16) return _mm256_mask_sub_epi8(codes, ~fifth, codes, _mm256_set1_epi8(16));
        return _mm256_mask_add_epi8(codes, fifth, codes, _mm256_set1_epi8(16));
    }
};
struct ByteBlock {
    static constexpr size_t kSize = 34;
    static ATLAS_AMX_INLINE __m256i Codes(const uint8_t* block) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(block + 2));
    }
};

enum class Heads { kScale, kScaleAndMinimum, kExponent };

/** Scales, and minima, of a row of up to eight blocks. */
template <size_t kBytes, Heads kHeads>
ATLAS_AMX_INLINE void Scales(const uint8_t* row, __mmask8 there, float* scales, uint32_t* larger, uint32_t* smaller) {
    constexpr int kStep = static_cast<int>(kBytes);
    const __m256i offsets = _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(kStep));
    // Four bytes of each block, of which one, two or all are read: blocks are longer.
    const __m256i heads = _mm256_mmask_i32gather_epi32(_mm256_setzero_si256(), there, offsets, row, 1);
    if (kHeads == Heads::kExponent) {
        // 2^(e − 128); the two smallest are subnormal.
        const __m256i e = _mm256_and_si256(heads, _mm256_set1_epi32(255));
        const __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
        const __m256i small = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), e);
        const __mmask8 is_small = _mm256_cmplt_epu32_mask(e, _mm256_set1_epi32(2));
        _mm256_store_si256(reinterpret_cast<__m256i*>(scales),
                           _mm256_maskz_mov_epi32(there, _mm256_mask_mov_epi32(normal, is_small, small)));
        return;
    }
    _mm256_store_ps(scales, _mm256_cvtph_ps(_mm256_cvtepi32_epi16(heads)));
    if (kHeads != Heads::kScaleAndMinimum) return;
    const __m256 minima = _mm256_cvtph_ps(_mm256_cvtepi32_epi16(_mm256_srli_epi32(heads, 16)));
    const __m256i bits = _mm256_castps_si256(minima);
    const __m256i upper = _mm256_and_si256(bits, _mm256_set1_epi32(static_cast<int>(0xFFFF0000u)));
    const __mmask8 finite = _mm256_cmplt_epu32_mask(_mm256_slli_epi32(bits, 1), _mm256_set1_epi32(-(1 << 24)));
    const __m256i rest = _mm256_castps_si256(_mm256_maskz_sub_ps(finite, minima, _mm256_castsi256_ps(upper)));
    // The rest of an f16 has no more than three bits.
    const __m256i word = _mm256_set1_epi32(static_cast<int>(0xFFFF0000u));
    _mm256_store_si256(reinterpret_cast<__m256i*>(larger), _mm256_or_si256(upper, _mm256_srli_epi32(upper, 16)));
    _mm256_store_si256(reinterpret_cast<__m256i*>(smaller),
                       _mm256_or_si256(_mm256_and_si256(rest, word), _mm256_srli_epi32(rest, 16)));
}

template <class Block, Heads kHeads>
ATLAS_AMX __attribute__((noinline)) void Unpack(const RowBlocks& rows, ScaledTiles* panel) {
    const size_t blocks = rows.elements / 32;
    const auto there = static_cast<__mmask8>((1u << blocks) - 1);
    for (size_t r = 0; r < kPanelRows; ++r) {
        const size_t half = r / kTile, row = r % kTile;
        if (r >= rows.rows) {
            for (auto& four : panel->codes[half]) std::memset(four[row], 0, 64);
            std::memset(panel->scales[half][row], 0, sizeof panel->scales[half][row]);
            for (auto& part : panel->minima[half]) std::memset(part[row], 0, sizeof part[row]);
            continue;
        }
        const uint8_t* block = rows.data + r * rows.stride;
        Scales<Block::kSize, kHeads>(block, there, panel->scales[half][row], panel->minima[half][0][row],
                                     panel->minima[half][1][row]);
        for (size_t b = 0; b < blocks; ++b, block += Block::kSize) {
            _mm256_store_si256(reinterpret_cast<__m256i*>(panel->codes[half][b / 2][row] + b % 2 * 32),
                               Block::Codes(block));
        }
    }
}

}  // namespace

void unpack_32(const RowBlocks& rows, ScaledTiles* panel) {
    switch (rows.type) {
        case WeightType::kQ8_0:
            return Unpack<ByteBlock, Heads::kScale>(rows, panel);
        case WeightType::kQ4_0:
            return Unpack<NibbleBlock<18, kLess8>, Heads::kScale>(rows, panel);
        case WeightType::kQ4_1:
            return Unpack<NibbleBlock<20, kPlain>, Heads::kScaleAndMinimum>(rows, panel);
        case WeightType::kQ5_0:
            return Unpack<NibbleBlock<22, kPlain, true, 16>, Heads::kScale>(rows, panel);
        case WeightType::kQ5_1:
            return Unpack<NibbleBlock<24, kPlain, true>, Heads::kScaleAndMinimum>(rows, panel);
        case WeightType::kIQ4_NL:
            return Unpack<NibbleBlock<18, kLevelsIQ4>, Heads::kScale>(rows, panel);
        default:
            return Unpack<NibbleBlock<17, kLevelsFP4>, Heads::kExponent>(rows, panel);
    }
}

}  // namespace atlas::kernels::cpu
