#include "kernels/cpu/weights/amx/side_by_side.h"

#include <hwy/aligned_allocator.h>

#include <new>

#include "base/per_thread.h"

namespace atlas::kernels::cpu {
namespace {

/** words[i]: word i of each column, from `offset`; those within `mask`, else zeros. */
ATLAS_AMX_INLINE void TurnWords16(const std::byte* const* columns, size_t offset, __mmask16 mask,
                                  __m512i (&words)[16]) {
#pragma GCC unroll 16
    for (size_t c = 0; c < kTile; ++c) words[c] = _mm512_maskz_loadu_epi32(mask, columns[c] + offset);
    turn_square(words);
}

ATLAS_AMX_INLINE void LayCodes(const ActivationLayout& layout, size_t elements, const std::byte* const* columns,
                               size_t part, int8_t (*to)[kTile][4]) {
    for (size_t i = 0; i < elements; i += 64) {
        __m512i words[16];
        TurnWords16(columns, layout.codes + 256 * part + i, 0xFFFF, words);
#pragma GCC unroll 16
        for (size_t w = 0; w < 16; ++w) _mm512_store_si512(to[i / 4 + w], words[w]);
    }
}

size_t elements_of(int64_t k, size_t part) {
    return std::min(static_cast<size_t>(kPanelDepth), static_cast<size_t>(k) - part * 256);
}

}  // namespace

void* workspace(size_t bytes) {
    struct Memory {
        hwy::AlignedFreeUniquePtr<std::byte[]> at;
        size_t size = 0;
    };
    thread_local PerThread<Memory> of_memory;
    Memory& memory = of_memory.get();
    if (bytes > memory.size) {
        memory = {};
        memory.at = hwy::AllocateAligned<std::byte>(bytes);
        if (!memory.at) throw std::bad_alloc();
        memory.size = bytes;
    }
    return memory.at.get();
}

ATLAS_AMX void lay_side_by_side(const ActivationLayout& layout, int64_t k, const std::byte* const* columns, size_t part,
                                PartQ8* to) {
    const size_t elements = elements_of(k, part);
    LayCodes(layout, elements, columns, part, to->codes);
    const auto blocks = static_cast<__mmask16>((1u << elements / 32) - 1);
    __m512i words[16];
    TurnWords16(columns, layout.scales + 32 * part, blocks, words);
#pragma GCC unroll 8
    for (size_t s = 0; s < 8; ++s) _mm512_store_si512(to->scales[s], words[s]);
    TurnWords16(columns, layout.offsets + 32 * part, blocks, words);
#pragma GCC unroll 8
    for (size_t s = 0; s < 8; ++s) _mm512_store_si512(to->offsets[s], two_parts(_mm512_castsi512_ps(words[s])));
}

ATLAS_AMX void lay_side_by_side(const ActivationLayout& layout, int64_t k, const std::byte* const* columns, size_t part,
                                PartQ8K* to) {
    LayCodes(layout, elements_of(k, part), columns, part, to->codes);
    for (size_t c = 0; c < kTile; ++c) to->scales[c] = reinterpret_cast<const float*>(columns[c] + layout.scales)[part];
    __m512i words[16];
    TurnWords16(columns, layout.sums + 64 * part, 0xFFFF, words);
#pragma GCC unroll 16
    for (size_t s = 0; s < 16; ++s) _mm512_store_si512(to->sums[s], two_parts(_mm512_cvtepi32_ps(words[s])));
}

}  // namespace atlas::kernels::cpu
