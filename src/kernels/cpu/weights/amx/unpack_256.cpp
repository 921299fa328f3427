#include <array>
#include <cstring>

#include "kernels/cpu/weights/amx/tile_panel.h"
#include "kernels/levels.h"

// Blocks of 256: types are described at their decoders in reference/weights.cpp. The whole number that a scale and a code make, less than 2^12 in
// size, is looked up in a table of the scale's, or multiplied out.

namespace atlas::kernels::cpu {
namespace {

/** Products of a scale with 16 codes: 64 · high + low. */
struct alignas(32) Products {
    int8_t high[16];
    int8_t low[16];
};

constexpr int8_t high_of(int value) { return static_cast<int8_t>(value >> 6); }
constexpr int8_t low_of(int value) { return static_cast<int8_t>(value & 63); }

template <class Value>
constexpr std::array<Products, 64> table_of(Value value) {
    std::array<Products, 64> table{};
    for (int scale = 0; scale < 64; ++scale) {
        for (int code = 0; code < 16; ++code) {
            table[static_cast<size_t>(scale)].high[code] = high_of(value(scale, code));
            table[static_cast<size_t>(scale)].low[code] = low_of(value(scale, code));
        }
    }
    return table;
}
/** q4_K and q5_K, and what the fifth bit adds: the same sixteen times. */
constexpr auto kPlainProducts = table_of([](int scale, int code) { return scale * code; });
constexpr auto kSixteenTimes = table_of([](int scale, int) { return scale * 16; });
constexpr auto kIQ4Products = table_of([](int scale, int code) { return (scale - 32) * kLevelsIQ4[code]; });

struct alignas(16) Bytes16 {
    int8_t of[16];
};
/** q2_K; codes of two bits. */
constexpr auto kQ2Products = [] {
    std::array<Bytes16, 16> table{};
    for (int scale = 0; scale < 16; ++scale)
        for (int code = 0; code < 4; ++code)
            table[static_cast<size_t>(scale)].of[code] = static_cast<int8_t>(scale * code);
    return table;
}();
/** q3_K, negated: −128 is a byte, 128 is not. */
constexpr auto kQ3Products = [] {
    std::array<Bytes16, 64> table{};
    for (int scale = 0; scale < 64; ++scale)
        for (int code = 0; code < 8; ++code)
            table[static_cast<size_t>(scale)].of[code] = static_cast<int8_t>((32 - scale) * (code - 4));
    return table;
}();

ATLAS_AMX_INLINE uint32_t Word(const uint8_t* from) {
    uint32_t bits;
    std::memcpy(&bits, from, sizeof bits);
    return bits;
}
ATLAS_AMX_INLINE float Half(const uint8_t* from) {
    uint16_t bits;
    std::memcpy(&bits, from, sizeof bits);
    return _cvtsh_ss(bits);
}
ATLAS_AMX_INLINE __m128i Load16(const void* from) { return _mm_loadu_si128(static_cast<const __m128i*>(from)); }
ATLAS_AMX_INLINE __m256i Load32(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }
ATLAS_AMX_INLINE __m512i Twice(const void* from) { return _mm512_broadcast_i64x4(Load32(from)); }

/** 16 bytes at `a` in the lower two lanes, 16 at `b` in the upper two. */
ATLAS_AMX_INLINE __m512i TwoTables(const int8_t* a, const int8_t* b) {
    return _mm512_mask_broadcast_i32x4(_mm512_broadcast_i32x4(Load16(a)), 0xFF00, Load16(b));
}
/** 16 bytes for each lane. */
template <class T>
ATLAS_AMX_INLINE __m512i FourTables(const T& table, const uint8_t* numbers) {
    __m512i all = _mm512_broadcast_i32x4(Load16(table[numbers[0]].of));
    all = _mm512_mask_broadcast_i32x4(all, 0x00F0, Load16(table[numbers[1]].of));
    all = _mm512_mask_broadcast_i32x4(all, 0x0F00, Load16(table[numbers[2]].of));
    return _mm512_mask_broadcast_i32x4(all, 0xF000, Load16(table[numbers[3]].of));
}
/** The lower two lanes shifted to the right by `a`, the upper by `b`, in words of 16 bits. */
ATLAS_AMX_INLINE __m512i ShiftHalves(__m512i v, int a, int b) {
    const auto lower = static_cast<long long>(a) * 0x0001000100010001;
    const auto upper = static_cast<long long>(b) * 0x0001000100010001;
    return _mm512_srlv_epi16(v, _mm512_setr_epi64(lower, lower, lower, lower, upper, upper, upper, upper));
}
ATLAS_AMX_INLINE __m512i Masked(__m512i v, char mask) { return _mm512_and_si512(v, _mm512_set1_epi8(mask)); }

/** Whole numbers of up to 6 bits as bf16, each twice in a word. */
ATLAS_AMX_INLINE __m512i PairsOfBf16(__m128i bytes) {
    const __m512i bits = _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)));
    return _mm512_or_si512(bits, _mm512_srli_epi32(bits, 16));
}

/** Where a row's bytes go: 64 elements of k each. */
struct To {
    int8_t* low[4];
    int8_t* high[4];
    uint32_t* minima;
    float* scale;
    float* minimum;
};

/** The scales and minima of six bits that q4_K and q5_K keep in twelve bytes. */
struct ScalesK4 {
    alignas(8) uint8_t scales[8];
    alignas(8) uint8_t minima[8];
    ATLAS_AMX_INLINE explicit ScalesK4(const uint8_t* from) {
        const uint32_t a = Word(from), b = Word(from + 4), c = Word(from + 8);
        const uint32_t words[4] = {a & 0x3F3F3F3Fu, (c & 0x0F0F0F0Fu) | (a >> 6 & 0x03030303u) << 4, b & 0x3F3F3F3Fu,
                                   (c >> 4 & 0x0F0F0F0Fu) | (b >> 6 & 0x03030303u) << 4};
        std::memcpy(scales, words, 8);
        std::memcpy(minima, words + 2, 8);
    }
};

/** q4_K, and with fifth bits q5_K. */
template <bool kFifth>
struct K4 {
    static ATLAS_AMX_INLINE void Row(const uint8_t* block, const To& to) {
        const ScalesK4 of(block + 4);
        *to.scale = Half(block);
        *to.minimum = Half(block + 2);
        const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(of.minima));
        _mm512_store_si512(to.minima, PairsOfBf16(_mm_unpacklo_epi8(eight, eight)));
        const uint8_t* nibbles = block + (kFifth ? 48 : 16);
        const __m512i fifth = kFifth ? Twice(block + 16) : _mm512_setzero_si512();
#pragma GCC unroll 4
        for (int g = 0; g < 4; ++g) {
            const __m512i codes = Masked(ShiftHalves(Twice(nibbles + 32 * g), 0, 4), 15);
            const uint8_t a = of.scales[2 * g], b = of.scales[2 * g + 1];
            const auto& table = kPlainProducts;
            __m512i high = _mm512_shuffle_epi8(TwoTables(table[a].high, table[b].high), codes);
            __m512i low = _mm512_shuffle_epi8(TwoTables(table[a].low, table[b].low), codes);
            if (kFifth) {
                const auto& more = kSixteenTimes;
                const __m512i bits = _mm512_inserti64x4(_mm512_set1_epi8(static_cast<char>(1 << 2 * g)),
                                                        _mm256_set1_epi8(static_cast<char>(2 << 2 * g)), 1);
                const __mmask64 set = _mm512_test_epi8_mask(fifth, bits);
                high = _mm512_mask_add_epi8(high, set, high, TwoTables(more[a].high, more[b].high));
                low = _mm512_mask_add_epi8(low, set, low, TwoTables(more[a].low, more[b].low));
            }
            _mm512_store_si512(to.high[g], high);
            _mm512_store_si512(to.low[g], low);
        }
    }
};

struct IQ4 {
    static ATLAS_AMX_INLINE void Row(const uint8_t* block, const To& to) {
        *to.scale = Half(block);
        const uint32_t upper = Word(block) >> 16, lower = Word(block + 4);
#pragma GCC unroll 4
        for (int g = 0; g < 4; ++g) {
            // The lanes: low and high nibbles of a block of 32, then of another.
            const __m512i both = _mm512_castsi256_si512(Load32(block + 8 + 32 * g));
            const __m512i spread = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 1, 0, 1, 2, 3, 2, 3), both);
            constexpr long long kFour = 0x0004000400040004;
            const __m512i codes =
                Masked(_mm512_srlv_epi16(spread, _mm512_setr_epi64(0, 0, kFour, kFour, 0, 0, kFour, kFour)), 15);
            const uint32_t a = (lower >> 8 * g & 15) | (upper >> 4 * g & 3) << 4;
            const uint32_t b = (lower >> (8 * g + 4) & 15) | (upper >> (4 * g + 2) & 3) << 4;
            const auto& table = kIQ4Products;
            _mm512_store_si512(to.high[g], _mm512_shuffle_epi8(TwoTables(table[a].high, table[b].high), codes));
            _mm512_store_si512(to.low[g], _mm512_shuffle_epi8(TwoTables(table[a].low, table[b].low), codes));
        }
    }
};

struct Q2 {
    static ATLAS_AMX_INLINE void Row(const uint8_t* block, const To& to) {
        *to.scale = Half(block + 80);
        *to.minimum = Half(block + 82);
        const __m128i both = Load16(block);
        alignas(16) uint8_t scales[16];
        _mm_store_si128(reinterpret_cast<__m128i*>(scales), _mm_and_si128(both, _mm_set1_epi8(15)));
        _mm512_store_si512(to.minima, PairsOfBf16(_mm_and_si128(_mm_srli_epi16(both, 4), _mm_set1_epi8(15))));
#pragma GCC unroll 4
        for (int g = 0; g < 4; ++g) {
            const __m512i bits = Twice(block + 16 + 32 * (g / 2));
            const __m512i codes = Masked(ShiftHalves(bits, g % 2 * 4, g % 2 * 4 + 2), 3);
            _mm512_store_si512(to.low[g], _mm512_shuffle_epi8(FourTables(kQ2Products, scales + 4 * g), codes));
        }
    }
};

struct Q3 {
    static ATLAS_AMX_INLINE void Row(const uint8_t* block, const To& to) {
        *to.scale = -Half(block + 108);
        const uint32_t a = Word(block + 96), b = Word(block + 100), c = Word(block + 104);
        const uint32_t four = 0x0F0F0F0Fu, two = 0x03030303u;
        alignas(16) uint32_t words[4] = {(a & four) | (c & two) << 4, (b & four) | (c >> 2 & two) << 4,
                                         (a >> 4 & four) | (c >> 4 & two) << 4, (b >> 4 & four) | (c >> 6 & two) << 4};
        alignas(16) uint8_t scales[16];
        std::memcpy(scales, words, 16);
        const __m512i third = Twice(block);
#pragma GCC unroll 4
        for (int g = 0; g < 4; ++g) {
            const __m512i bits = Twice(block + 32 + 32 * (g / 2));
            const __m512i lower = Masked(ShiftHalves(bits, g % 2 * 4, g % 2 * 4 + 2), 3);
            const __m512i upper = _mm512_slli_epi16(Masked(ShiftHalves(third, 2 * g, 2 * g + 1), 1), 2);
            const __m512i codes = _mm512_or_si512(lower, upper);
            _mm512_store_si512(to.low[g], _mm512_shuffle_epi8(FourTables(kQ3Products, scales + 4 * g), codes));
        }
    }
};

struct Q6 {
    static ATLAS_AMX_INLINE void Row(const uint8_t* block, const To& to) {
        *to.scale = Half(block + 208);
        const __m512i scales = _mm512_castsi256_si512(_mm256_cvtepi8_epi16(Load16(block + 192)));
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
            const __m512i nibbles = _mm512_loadu_si512(block + 64 * half);
            const __m512i upper = Twice(block + 128 + 32 * half);
            // Bits 0 and 1 of the upper ones belong to the first 32 elements, 2 and 3 to the next, and so on.
            const __m512i first =
                _mm512_or_si512(Masked(nibbles, 15), Masked(_mm512_slli_epi16(ShiftHalves(upper, 0, 2), 4), 0x30));
            const __m512i last =
                _mm512_or_si512(Masked(_mm512_srli_epi16(nibbles, 4), 15), Masked(ShiftHalves(upper, 0, 2), 0x30));
            Store(first, scales, 2 * half, to);
            Store(last, scales, 2 * half + 1, to);
        }
    }
    static ATLAS_AMX_INLINE void Store(__m512i codes, __m512i scales, int g, const To& to) {
        // A lane of 16 elements has one scale.
        const auto lane = [g](int i) { return static_cast<long long>(4 * g + i) * 0x0001000100010001; };
        const __m512i by = _mm512_permutexvar_epi16(
            _mm512_setr_epi64(lane(0), lane(0), lane(1), lane(1), lane(2), lane(2), lane(3), lane(3)), scales);
        const __m512i by4 = _mm512_slli_epi16(by, 2);
        const __m512i numbers = _mm512_sub_epi8(codes, _mm512_set1_epi8(32));
        // 256 times the bytes of even and of odd numbers.
        const __m512i even = _mm512_slli_epi16(numbers, 8);
        const __m512i odd = _mm512_and_si512(numbers, _mm512_set1_epi16(static_cast<short>(0xFF00)));
        const __m512i high_even = _mm512_mulhi_epi16(even, by4), high_odd = _mm512_mulhi_epi16(odd, by4);
        const __m512i low_even = _mm512_mullo_epi16(even, by), low_odd = _mm512_mullo_epi16(odd, by);
        constexpr __mmask64 kOdd = 0xAAAAAAAAAAAAAAAA;
        _mm512_store_si512(to.high[g], _mm512_mask_mov_epi8(high_even, kOdd, _mm512_slli_epi16(high_odd, 8)));
        _mm512_store_si512(to.low[g], Masked(_mm512_mask_mov_epi8(_mm512_srli_epi16(low_even, 8), kOdd, low_odd), 63));
    }
};

template <class Type>
ATLAS_AMX __attribute__((noinline)) void Unpack(const RowBlocks& rows, WholeTiles* panel) {
    for (size_t r = 0; r < kPanelRows; ++r) {
        const size_t half = r / kTile, row = r % kTile;
        auto& low = panel->low[half];
        auto& high = panel->high[half];
        const To to{{low[0][row], low[1][row], low[2][row], low[3][row]},
                    {high[0][row], high[1][row], high[2][row], high[3][row]},
                    panel->minima[half][row],
                    &panel->scale[half][row],
                    &panel->minimum[half][row]};
        if (r < rows.rows) {
            Type::Row(rows.data + r * rows.stride, to);
            continue;
        }
        for (size_t g = 0; g < 4; ++g) {
            std::memset(to.low[g], 0, 64);
            std::memset(to.high[g], 0, 64);
        }
        std::memset(to.minima, 0, 64);
        *to.scale = *to.minimum = 0.0f;
    }
}

}  // namespace

void unpack_256(const RowBlocks& rows, WholeTiles* panel) {
    switch (rows.type) {
        case WeightType::kQ4_K:
            return Unpack<K4<false>>(rows, panel);
        case WeightType::kQ5_K:
            return Unpack<K4<true>>(rows, panel);
        case WeightType::kQ6_K:
            return Unpack<Q6>(rows, panel);
        case WeightType::kQ2_K:
            return Unpack<Q2>(rows, panel);
        case WeightType::kQ3_K:
            return Unpack<Q3>(rows, panel);
        default:
            return Unpack<IQ4>(rows, panel);
    }
}

}  // namespace atlas::kernels::cpu
