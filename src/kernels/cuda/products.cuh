#pragma once

#include "kernels/cuda/geometry.cuh"
#include "kernels/cuda/product_arguments.h"
#include "kernels/cuda/rows.cuh"

// Products of quantised weights, as a model file holds them, with few columns of activations in eight bits: kernels::Table's multiply_weights. A warp takes kRows
// rows; a lane sixteen bytes of codes at a time, which it multiplies as they are, four at once, with what the block keeps of the activations in shared memory.

namespace atlas::kernels::cuda {

/** The part of the activations that is in shared memory. */
struct ActivationTile {
    const int8_t* codes;          ///< [columns][kProductTile]
    const ActivationPart* parts;  ///< [columns][kProductTile / 32]
};

SIMT_DEVICE int dot_16(const uint4& a, const uint4& b) {
    return simt::dot_bytes(a.x, b.x,
                           simt::dot_bytes(a.y, b.y, simt::dot_bytes(a.z, b.z, simt::dot_bytes(a.w, b.w, 0))));
}
SIMT_DEVICE uint4 nibbles(const uint4& x, int shift) {
    constexpr uint32_t kLow = 0x0F0F0F0Fu;
    return {x.x >> shift & kLow, x.y >> shift & kLow, x.z >> shift & kLow, x.w >> shift & kLow};
}

/** Elements 16 · unit … of a tile. */
SIMT_DEVICE uint4 codes_at(const ActivationTile& tile, int column, int unit) {
    return *reinterpret_cast<const uint4*>(tile.codes + column * kProductTile + unit * 16);
}
SIMT_DEVICE const ActivationPart& part_at(const ActivationTile& tile, int column, int part) {
    return tile.parts[column * (kProductTile / 32) + part];
}
/** Sum of the codes of a unit of sixteen. */
SIMT_DEVICE float sum_at(const ActivationPart& part, int half) {
    return static_cast<float>(static_cast<int16_t>(half ? part.sums >> 16 : part.sums));
}

// One struct per type: how many lanes share a block (kChunks), what of it a lane reads, and what a chunk adds to a column. `at` is the first element of the
// block in the tile, in units of 32.

struct ProductQ8_0 {
    static constexpr int kElements = 32, kBytes = 34, kChunks = 2;
    struct Chunk {
        uint4 quants;
        float d;
    };
    static SIMT_DEVICE Chunk read(const unsigned char* block, int chunk) {
        return {read_16_at_2(block + 2 + 16 * chunk),
                simt::half_to_float(simt::read(reinterpret_cast<const uint16_t*>(block)))};
    }
    static SIMT_DEVICE float multiply(const Chunk& c, int chunk, const ActivationTile& tile, int column, int at) {
        const int sum = dot_16(c.quants, codes_at(tile, column, at * 2 + chunk));
        return c.d * part_at(tile, column, at).scale * static_cast<float>(sum);
    }
};

struct ProductQ4_0 {
    static constexpr int kElements = 32, kBytes = 18, kChunks = 1;
    using Chunk = ProductQ8_0::Chunk;
    static SIMT_DEVICE Chunk read(const unsigned char* block, int /*chunk*/) { return ProductQ8_0::read(block, 0); }
    static SIMT_DEVICE float multiply(const Chunk& c, int /*chunk*/, const ActivationTile& tile, int column, int at) {
        const int sum = dot_16(nibbles(c.quants, 0), codes_at(tile, column, at * 2)) +
                        dot_16(nibbles(c.quants, 4), codes_at(tile, column, at * 2 + 1));
        const ActivationPart& part = part_at(tile, column, at);
        const float all = sum_at(part, 0) + sum_at(part, 1);
        return c.d * part.scale * (static_cast<float>(sum) - 8.0f * all);
    }
};

/** Of a block of q4_K or q5_K: scale and minimum of sub-blocks 2j and 2j + 1, times d and dmin. */
struct ScalesK4 {
    float scale[2], least[2];
};
SIMT_DEVICE ScalesK4 read_scales(const unsigned char* block, int pair) {
    const uint4 head = simt::read(reinterpret_cast<const uint4*>(block));
    const float2 d = simt::unpack_halves(head.x);
    ScalesK4 s;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int sub = pair * 2 + i;
        // Six bits each; those of the later four in two places.
        const int shift = 8 * (sub % 4);
        const uint32_t low = head.y >> shift & 0xFFu;
        const uint32_t high = head.z >> shift & 0xFFu;
        const uint32_t last = head.w >> shift & 0xFFu;
        const uint32_t scale = sub < 4 ? low & 63u : (last & 15u) | low >> 6 << 4;
        const uint32_t least = sub < 4 ? high & 63u : last >> 4 | high >> 6 << 4;
        s.scale[i] = d.x * static_cast<float>(scale);
        s.least[i] = d.y * static_cast<float>(least);
    }
    return s;
}

/** Chunk 2j + c: elements 16c … of sub-blocks 2j (low nibbles) and 2j + 1 (high ones). Rows begin at multiples of 16. */
template <bool kFifth>
struct ProductK4 {
    static constexpr int kElements = 256, kBytes = kFifth ? 176 : 144, kChunks = 8;
    struct Chunk {
        uint4 quants, fifth;
        ScalesK4 scales;
    };
    static SIMT_DEVICE Chunk read(const unsigned char* block, int chunk) {
        Chunk c{};
        c.scales = read_scales(block, chunk / 2);
        c.quants = simt::read(reinterpret_cast<const uint4*>(block + (kFifth ? 48 : 16)) + chunk);
        if (kFifth) c.fifth = simt::read(reinterpret_cast<const uint4*>(block + 16) + chunk % 2);
        return c;
    }
    static SIMT_DEVICE float multiply(const Chunk& c, int chunk, const ActivationTile& tile, int column, int at) {
        float sum = 0;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int sub = chunk / 2 * 2 + i;
            uint4 quants = nibbles(c.quants, 4 * i);
            if (kFifth) {
                const auto upper = [&](uint32_t bits) { return (bits >> sub & 0x01010101u) << 4; };
                quants.x |= upper(c.fifth.x);
                quants.y |= upper(c.fifth.y);
                quants.z |= upper(c.fifth.z);
                quants.w |= upper(c.fifth.w);
            }
            const ActivationPart& a = part_at(tile, column, at + sub);
            const int dot = dot_16(quants, codes_at(tile, column, (at + sub) * 2 + chunk % 2));
            sum += a.scale * (c.scales.scale[i] * static_cast<float>(dot) - c.scales.least[i] * sum_at(a, chunk % 2));
        }
        return sum;
    }
};

/** Nibbles 0 … 15 in the low halves of bytes, as levels of iq4_nl. */
SIMT_DEVICE uint32_t levels(uint32_t low_nibbles) {
    // −127 −104 −83 −65, −49 −35 −22 −10, 1 13 25 38, 53 69 89 113
    const uint32_t close = low_nibbles | low_nibbles >> 4;
    const uint32_t which = ((close & 0xFFu) | (close >> 8 & 0xFF00u)) & 0x7777u;
    const uint32_t first = simt::pick_bytes(0xBFAD9881u, 0xF6EADDCFu, which);
    const uint32_t second = simt::pick_bytes(0x26190D01u, 0x71594535u, which);
    const uint32_t upper = (low_nibbles >> 3 & 0x01010101u) * 0xFFu;
    return (first & ~upper) | (second & upper);
}
SIMT_DEVICE uint4 levels(const uint4& x) { return {levels(x.x), levels(x.y), levels(x.z), levels(x.w)}; }

struct ProductIQ4_NL {
    static constexpr int kElements = 32, kBytes = 18, kChunks = 1;
    using Chunk = ProductQ8_0::Chunk;
    static SIMT_DEVICE Chunk read(const unsigned char* block, int /*chunk*/) { return ProductQ8_0::read(block, 0); }
    static SIMT_DEVICE float multiply(const Chunk& c, int /*chunk*/, const ActivationTile& tile, int column, int at) {
        const int sum = dot_16(levels(nibbles(c.quants, 0)), codes_at(tile, column, at * 2)) +
                        dot_16(levels(nibbles(c.quants, 4)), codes_at(tile, column, at * 2 + 1));
        return c.d * part_at(tile, column, at).scale * static_cast<float>(sum);
    }
};

/** Rows begin at multiples of 8. */
struct ProductQ5_1 {
    static constexpr int kElements = 32, kBytes = 24, kChunks = 1;
    struct Chunk {
        uint4 quants;
        uint32_t fifth;
        float2 d;  ///< scale and offset
    };
    static SIMT_DEVICE Chunk read(const unsigned char* block, int /*chunk*/) {
        const auto* words = reinterpret_cast<const uint2*>(block);
        const uint2 head = simt::read(words);
        const uint2 low = simt::read(words + 1);
        const uint2 high = simt::read(words + 2);
        return {{low.x, low.y, high.x, high.y}, head.y, simt::unpack_halves(head.x)};
    }
    /** Bits 0 … 3 of `bits` as 16 in bytes 0 … 3. */
    static SIMT_DEVICE uint32_t spread(uint32_t bits) {
        return (bits & 1u) << 4 | (bits & 2u) << 11 | (bits & 4u) << 18 | (bits & 8u) << 25;
    }
    static SIMT_DEVICE uint4 with_fifth(uint4 x, uint32_t bits) {
        x.x |= spread(bits);
        x.y |= spread(bits >> 4);
        x.z |= spread(bits >> 8);
        x.w |= spread(bits >> 12);
        return x;
    }
    static SIMT_DEVICE float multiply(const Chunk& c, int /*chunk*/, const ActivationTile& tile, int column, int at) {
        const int sum = dot_16(with_fifth(nibbles(c.quants, 0), c.fifth), codes_at(tile, column, at * 2)) +
                        dot_16(with_fifth(nibbles(c.quants, 4), c.fifth >> 16), codes_at(tile, column, at * 2 + 1));
        const ActivationPart& part = part_at(tile, column, at);
        return c.d.x * part.scale * static_cast<float>(sum) + c.d.y * part.offset;
    }
};

/** Chunk 2h + c: elements 16c … of the four parts of 32 of half h. */
struct ProductQ6_K {
    static constexpr int kElements = 256, kBytes = 210, kChunks = 4;
    struct Chunk {
        uint4 low[2], high;
        float scale[4];
    };
    static SIMT_DEVICE Chunk read(const unsigned char* block, int chunk) {
        const int half = chunk / 2;
        const int c16 = chunk % 2 * 16;
        Chunk c;
        c.low[0] = read_16_at_2(block + 64 * half + c16);
        c.low[1] = read_16_at_2(block + 64 * half + 32 + c16);
        c.high = read_16_at_2(block + 128 + 32 * half + c16);
        const float d = simt::half_to_float(simt::read(reinterpret_cast<const uint16_t*>(block + 208)));
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const auto s = simt::read(reinterpret_cast<const int8_t*>(block + 192 + 8 * half + 2 * i + chunk % 2));
            c.scale[i] = d * static_cast<float>(s);
        }
        return c;
    }
    static SIMT_DEVICE float multiply(const Chunk& c, int chunk, const ActivationTile& tile, int column, int at) {
        constexpr uint32_t kUpper = 0x30303030u;
        const auto upper = [&](uint32_t word, int i) {
            return (i < 2 ? word << (4 - 2 * i) : word >> (2 * i - 4)) & kUpper;
        };
        float sum = 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int part = at + chunk / 2 * 4 + i;
            const ActivationPart& a = part_at(tile, column, part);
            uint4 quants = nibbles(c.low[i % 2], i / 2 * 4);
            quants.x |= upper(c.high.x, i);
            quants.y |= upper(c.high.y, i);
            quants.z |= upper(c.high.z, i);
            quants.w |= upper(c.high.w, i);
            const int dot = dot_16(quants, codes_at(tile, column, part * 2 + chunk % 2));
            sum += a.scale * c.scale[i] * (static_cast<float>(dot) - 32.0f * sum_at(a, chunk % 2));
        }
        return sum;
    }
};

/** The rows of a warp, times kColumns columns (those beyond the last are the last once more), over the tile from element `first` on. */
template <class Type, int kRows, int kColumns>
SIMT_DEVICE void multiply_tile_rows(const ProductArguments& a, const ActivationTile& tile, int first, int elements,
                                    int first_row, float (&sums)[kRows][kColumns]) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int chunks = elements / Type::kElements * Type::kChunks;
    for (int i = lane; i < chunks; i += 32) {
        const int block = i / Type::kChunks;
        const int chunk = i % Type::kChunks;
        typename Type::Chunk read[kRows];
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            const int row = simt::smaller(first_row + r, a.rows - 1);
            read[r] = Type::read(
                a.weights + row * a.row_stride + static_cast<int64_t>(first / Type::kElements + block) * Type::kBytes,
                chunk);
        }
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
#pragma unroll
            for (int c = 0; c < kColumns; ++c) {
                sums[r][c] += Type::multiply(read[r], chunk, tile, c, block * (Type::kElements / 32));
            }
        }
    }
}

/** Grid: (blocks of rows, blocks of kColumns columns). */
template <class Type, int kRows, int kColumns>
SIMT_DEVICE void multiply_few(const ProductArguments& a) {
    constexpr int kThreads = kProductWarps * 32;
    SIMT_SHARED(memory);
    simt::Carver carver(memory);
    int8_t* codes = carver.take<int8_t>(kColumns * kProductTile);
    ActivationPart* parts = carver.take<ActivationPart>(kColumns * kProductTile / 32);
    const ActivationTile tile{codes, parts};
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int first_row = (static_cast<int>(blockIdx.x) * kProductWarps + warp) * kRows;
    const int first_column = static_cast<int>(blockIdx.y) * kColumns;
    float sums[kRows][kColumns] = {};
    for (int first = 0; first < a.cols; first += kProductTile) {
        const int elements = simt::smaller(kProductTile, a.cols - first);
        __syncthreads();  // the last tile has been read
        for (int c = 0; c < kColumns; ++c) {
            const int64_t column = simt::smaller(first_column + c, a.columns - 1);
            const int8_t* from = a.codes + column * a.cols + first;
            for (int i = static_cast<int>(threadIdx.x); i < elements / 16; i += kThreads) {
                reinterpret_cast<uint4*>(codes + c * kProductTile)[i] =
                    simt::read(reinterpret_cast<const uint4*>(from) + i);
            }
            const ActivationPart* more = a.parts + (column * a.cols + first) / 32;
            for (int i = static_cast<int>(threadIdx.x); i < elements / 32; i += kThreads) {
                reinterpret_cast<uint4*>(parts)[c * (kProductTile / 32) + i] =
                    simt::read(reinterpret_cast<const uint4*>(more + i));
            }
        }
        __syncthreads();
        if (first_row < a.rows) multiply_tile_rows<Type, kRows, kColumns>(a, tile, first, elements, first_row, sums);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
            const float sum = simt::sum_over_lanes<1, 32>(sums[r][c]);
            if (lane == 0 && first_row + r < a.rows && first_column + c < a.columns) {
                simt::write(a.out + (first_column + c) * a.out_stride + first_row + r, sum);
            }
        }
    }
}

/** One kernel for all types: a launch has one of them. */
template <int kRows, int kColumns>
SIMT_DEVICE void multiply_weights(const ProductArguments& a) {
    switch (a.type) {
        case ProductType::kQ8_0:
            return multiply_few<ProductQ8_0, kRows, kColumns>(a);
        case ProductType::kQ4_0:
            return multiply_few<ProductQ4_0, kRows, kColumns>(a);
        case ProductType::kQ5_1:
            return multiply_few<ProductQ5_1, kRows, kColumns>(a);
        case ProductType::kIQ4_NL:
            return multiply_few<ProductIQ4_NL, kRows, kColumns>(a);
        case ProductType::kQ4_K:
            return multiply_few<ProductK4<false>, kRows, kColumns>(a);
        case ProductType::kQ5_K:
            return multiply_few<ProductK4<true>, kRows, kColumns>(a);
        case ProductType::kQ6_K:
            return multiply_few<ProductQ6_K, kRows, kColumns>(a);
    }
}

/**
 * Activations in eight bits, as kernels::Table's quantise_activations makes them for types of blocks of 32 and of 256: a warp per block of 256 or eight of 32.
 * Grid: (parts of 256 elements, columns).
 */
SIMT_DEVICE void quantise_columns(const QuantiseArguments& a) {
    const int lane = static_cast<int>(threadIdx.x);
    const int64_t column = blockIdx.y;
    const int first = static_cast<int>(blockIdx.x) * 256;
    const float* x = a.x + column * a.x_stride;
    float values[8];
    float signed_most = 0;  // of a block of 256: the first of the largest, with its sign
    bool finite = true;
#pragma unroll
    for (int part = 0; part < 8; ++part) {
        const int i = first + part * 32 + lane;
        values[part] = i < a.k ? simt::read(x + i) : 0.0f;
        finite = finite && is_finite(values[part]);
    }
    if (a.wide) {
        // The first of the largest: by size, then by place.
        float most = 0;
#pragma unroll
        for (int part = 0; part < 8; ++part) most = simt::larger(most, fabsf(values[part]));
        most = simt::most_over_lanes<1, 32>(most);
        bool found = false;
#pragma unroll
        for (int part = 0; part < 8; ++part) {
            const unsigned holders = __ballot_sync(simt::kWholeWarp, fabsf(values[part]) == most);
            const float holder = __shfl_sync(simt::kWholeWarp, values[part], holders ? simt::lowest_bit(holders) : 0);
            if (!found && holders) {
                signed_most = holder;
                found = true;
            }
        }
        finite = __ballot_sync(simt::kWholeWarp, !finite) == 0;
    }
#pragma unroll
    for (int part = 0; part < 8; ++part) {
        const int block = first / 32 + part;
        if (block * 32 >= a.k) break;  // k is a multiple of 32
        float most = signed_most;
        bool good = finite;
        if (!a.wide) {
            most = simt::most_over_lanes<1, 32>(fabsf(values[part]));
            good = __ballot_sync(simt::kWholeWarp, !is_finite(values[part])) == 0;
        }
        float factor = 0;
        float scale = simt::bits_to_float(0x7FC00000u);  // NaN: codes of 0, products of NaN
        if (good) {
            factor = simt::exact_quotient(a.wide ? -127.0f : 127.0f, most);
            if (!is_finite(factor)) factor = 0;
            scale = !a.wide       ? simt::exact_quotient(most, 127.0f)
                    : factor != 0 ? simt::exact_quotient(1.0f, factor)
                                  : 0.0f;
        }
        int code = factor == 0 ? 0 : simt::round_to_even(simt::exact_product(values[part], factor));
        code = simt::smaller(code, 127);
        simt::write(a.codes + column * a.k + block * 32 + lane, static_cast<int8_t>(code));
        const float half_sum = simt::sum_over_lanes<1, 16>(static_cast<float>(code));
        const float other = __shfl_xor_sync(simt::kWholeWarp, half_sum, 16);
        if (lane != 0) continue;
        const auto rounded = [](float x) { return simt::half_to_float(simt::float_to_half(x)); };
        const uint32_t sums = (static_cast<uint32_t>(static_cast<int>(half_sum)) & 0xFFFFu) |
                              static_cast<uint32_t>(static_cast<int>(other)) << 16;
        const float offset = a.wide ? 0.0f : rounded(simt::exact_product(scale, half_sum + other));
        simt::write(reinterpret_cast<uint4*>(a.parts + (column * a.k) / 32 + block),
                    uint4{simt::float_to_bits(a.wide ? scale : rounded(scale)), simt::float_to_bits(offset), sums, 0});
    }
}

}  // namespace atlas::kernels::cuda
