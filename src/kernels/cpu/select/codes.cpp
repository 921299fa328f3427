#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/select/weigh_tiles.h"
#include "kernels/cpu/vectors.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/select/codes.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include <hwy/contrib/math/math-inl.h>

#include "kernels/cpu/settle-inl.h"

HWY_BEFORE_NAMESPACE();
namespace atlas::kernels::cpu::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::ScalableTag<float>;
using VF = hn::Vec<DF>;
using DI = hn::Rebind<int32_t, DF>;
using DU = hn::Rebind<uint32_t, DF>;

constexpr size_t kKeys = static_cast<size_t>(kCodeKeys);
/** Rows that share one pass over a page's codes: with two accumulators each they fill the registers, of which AVX-512 has twice as many. */
constexpr size_t kRows = HWY_MAX_BYTES >= 64 ? 8 : 6;

// Where the CPU adds four products of bytes to a 32-bit lane at once, that is half the work of 16-bit sums.
#undef ATLAS_QUAD_PRODUCTS
#if HWY_TARGET == HWY_AVX3_ZEN4 || HWY_TARGET == HWY_AVX3_DL || HWY_TARGET == HWY_AVX3_SPR
#define ATLAS_QUAD_PRODUCTS 1
#else
#define ATLAS_QUAD_PRODUCTS 0
#endif

using Sum = hn::Vec<DI>;

/** sum + per 32-bit lane the four products of bytes; in halves of 16 bits without ATLAS_QUAD_PRODUCTS. */
HWY_INLINE Sum AddProducts(Sum sum, hn::Vec<DU> codes, hn::Vec<DU> query) {
    const hn::Repartition<uint8_t, DF> d8;
    const hn::Repartition<int8_t, DF> di8;
#if ATLAS_QUAD_PRODUCTS
    return hn::SumOfMulQuadAccumulate(DI(), hn::BitCast(d8, codes), hn::BitCast(di8, query), sum);
#else
    const hn::Repartition<int16_t, DF> d16;
    const auto products = hn::SatWidenMulPairwiseAdd(d16, hn::BitCast(d8, codes), hn::BitCast(di8, query));
    return hn::BitCast(DI(), hn::Add(hn::BitCast(d16, sum), products));
#endif
}

HWY_INLINE Sum Finished(Sum sum) {
#if ATLAS_QUAD_PRODUCTS
    return sum;
#else
    const hn::Repartition<int16_t, DF> d16;
    return hn::WidenMulPairwiseAdd(DI(), hn::BitCast(d16, sum), hn::Set(d16, 1));
#endif
}

HWY_INLINE VF LoadHalves(const uint16_t* from) {
    const hn::Rebind<hwy::float16_t, DF> half;
    return hn::PromoteTo(DF(), hn::LoadU(half, reinterpret_cast<const hwy::float16_t*>(from)));
}

HWY_INLINE VF LoadSigned(const int8_t* from) {
    const hn::Rebind<int8_t, DF> d8;
    return hn::ConvertTo(DF(), hn::PromoteTo(DI(), hn::LoadU(d8, from)));
}

/** 2^x for x in [−126, 100], with a relative error below 3e-6. */
HWY_INLINE VF PowerOfTwo(VF x) {
    const VF whole = hn::Round(x);
    const VF f = hn::Sub(x, whole);
    // 2^f in [−½, ½]: the polynomial of degree 4 with the least relative error.
    VF p = hn::Set(DF(), 9.57010e-3f);
    p = hn::MulAdd(p, f, hn::Set(DF(), 5.591786e-2f));
    p = hn::MulAdd(p, f, hn::Set(DF(), 2.4024745e-1f));
    p = hn::MulAdd(p, f, hn::Set(DF(), 6.9312182e-1f));
    p = hn::MulAdd(p, f, hn::Set(DF(), 9.9999926e-1f));
#if HWY_MAX_BYTES >= 64
    return hn::MulByFloorPow2(p, whole);  // one instruction
#else
    return hn::Mul(p, hn::BitCast(DF(), hn::ShiftLeft<23>(hn::Add(hn::ConvertTo(DI(), whole), hn::Set(DI(), 127)))));
#endif
}

/** 2^(x − by) as weigh_scores has it. */
HWY_INLINE VF Weight(VF x, VF by) {
    const VF shifted = hn::Sub(x, by);
    // Below the range, and NaN, which compares false: nothing.
    const auto counts = hn::Ge(shifted, hn::Set(DF(), -126.0f));
    return hn::IfThenElseZero(counts, PowerOfTwo(hn::Min(hn::IfThenElseZero(counts, shifted), hn::Set(DF(), 100.0f))));
}

struct Row {
    float base;  // exact · mean
    float scale, offset;
    float shift;  // with kWeigh
};

/** Many rows share a page's codes taken apart once, up to this d: [d/4][64] words of four bytes. */
constexpr size_t kMostUnpacked = 256;

void Unpack(const std::byte* page, size_t d, uint32_t* bytes) {
    const size_t lanes = hn::Lanes(DU());
    const auto* codes = reinterpret_cast<const uint32_t*>(page);
    const auto low = hn::Set(DU(), 0x03030303u);
    for (size_t g = 0; g < d / 16; ++g) {
        for (size_t key = 0; key < kKeys; key += lanes) {
            auto word = hn::Load(DU(), codes + g * kKeys + key);
            for (size_t j = 0; j < 4; ++j) {
                hn::Store(hn::And(word, low), DU(), bytes + (4 * g + j) * kKeys + key);
                word = hn::ShiftRight<2>(word);
            }
        }
    }
}

/** Logits of kCount rows, or with kWeigh their weights, with sums and the largest. `unpacked`: the page's codes taken apart, with kUnpacked. */
template <size_t kCount, bool kWeigh, bool kUnpacked>
HWY_INLINE void ScoreRows(const CodeShape& shape, const std::byte* page, const uint32_t* unpacked,
                          const std::byte* ahead, const int8_t* queries, const Row* rows, float* out, float* sums,
                          float* most) {
    const size_t lanes = hn::Lanes(DF());
    const auto groups = static_cast<size_t>(shape.d / 16);
    const auto* codes = reinterpret_cast<const uint32_t*>(page);
    const auto* key_scale = reinterpret_cast<const uint16_t*>(page + shape.key_scale);
    const auto low = hn::Set(DU(), 0x03030303u);
    VF all[kCount];
    VF top[kCount];
    ATLAS_UNROLL
    for (size_t r = 0; r < kCount; ++r) all[r] = top[r] = hn::Zero(DF());
    for (size_t key = 0; key < kKeys; key += 2 * lanes) {
        Sum a[kCount];
        Sum b[kCount];
        ATLAS_UNROLL
        for (size_t r = 0; r < kCount; ++r) a[r] = b[r] = hn::Zero(DI());
        for (size_t g = 0; g < groups; ++g) {
            auto word_a = hn::Zero(DU());
            auto word_b = hn::Zero(DU());
            if constexpr (!kUnpacked) {
                word_a = hn::Load(DU(), codes + g * kKeys + key);
                word_b = hn::Load(DU(), codes + g * kKeys + key + lanes);
            }
            if (ahead != nullptr) {
                // One line for each that is read, so that no burst of them holds up the loads.
                const std::byte* next = ahead + (g * kKeys + key) * sizeof(uint32_t);
                for (size_t at = 0; at < 2 * lanes * sizeof(uint32_t); at += 64) __builtin_prefetch(next + at, 0, 2);
            }
            ATLAS_UNROLL
            for (size_t j = 0; j < 4; ++j) {
                const uint32_t* apart = unpacked + (4 * g + j) * kKeys + key;
                const auto code_a = kUnpacked ? hn::Load(DU(), apart) : hn::And(word_a, low);
                const auto code_b = kUnpacked ? hn::Load(DU(), apart + lanes) : hn::And(word_b, low);
                ATLAS_UNROLL
                for (size_t r = 0; r < kCount; ++r) {
                    uint32_t four;
                    std::memcpy(&four, queries + r * static_cast<size_t>(shape.d) + 16 * g + 4 * j, sizeof four);
                    const auto query = hn::Set(DU(), four);
                    a[r] = AddProducts(a[r], code_a, query);
                    b[r] = AddProducts(b[r], code_b, query);
                    Settle(a[r]);
                    Settle(b[r]);
                }
                if constexpr (!kUnpacked) {
                    word_a = hn::ShiftRight<2>(word_a);
                    word_b = hn::ShiftRight<2>(word_b);
                    if constexpr (kCount > 4 && HWY_TARGET == HWY_AVX2) {
                        // Sums fill the registers.
                        PutAside(word_a);
                        PutAside(word_b);
                    }
                }
            }
        }
        const VF scale_a = LoadHalves(key_scale + key);
        const VF scale_b = LoadHalves(key_scale + key + lanes);
        ATLAS_UNROLL
        for (size_t r = 0; r < kCount; ++r) {
            const Row& row = rows[r];
            const VF scale = hn::Set(DF(), row.scale);
            const VF offset = hn::Set(DF(), row.offset);
            const VF base = hn::Set(DF(), row.base);
            const auto logit = [&](Sum sum, VF key_scales) HWY_ATTR {
                const VF dot = hn::MulAdd(hn::Set(DF(), 2.0f), hn::ConvertTo(DF(), Finished(sum)), offset);
                return hn::MulAdd(hn::Mul(dot, scale), key_scales, base);
            };
            VF of_a = logit(a[r], scale_a);
            VF of_b = logit(b[r], scale_b);
            if constexpr (kWeigh) {
                const VF shift = hn::Set(DF(), row.shift);
                of_a = Weight(of_a, shift);
                of_b = Weight(of_b, shift);
                all[r] = hn::Add(all[r], hn::Add(of_a, of_b));
                top[r] = hn::Max(top[r], hn::Max(of_a, of_b));
            }
            hn::Store(of_a, DF(), out + r * kKeys + key);
            hn::Store(of_b, DF(), out + r * kKeys + key + lanes);
        }
    }
    if constexpr (kWeigh) {
        ATLAS_UNROLL
        for (size_t r = 0; r < kCount; ++r) {
            sums[r] = hn::ReduceSum(DF(), all[r]);
            most[r] = hn::ReduceMax(DF(), top[r]);
        }
    }
}

/** rows[r].base = scale · Σ x[r][i] · m[i] over d, a multiple of 16. */
template <size_t kCount>
HWY_INLINE void DotMeans(const float* x, const int8_t* m, size_t d, float scale, Row* rows) {
    const size_t lanes = hn::Lanes(DF());
    VF sum[kCount];
    ATLAS_UNROLL
    for (size_t r = 0; r < kCount; ++r) sum[r] = hn::Zero(DF());
    for (size_t i = 0; i < d; i += lanes) {
        const VF mean = LoadSigned(m + i);
        ATLAS_UNROLL
        for (size_t r = 0; r < kCount; ++r) sum[r] = hn::MulAdd(hn::LoadU(DF(), x + r * d + i), mean, sum[r]);
    }
    ATLAS_UNROLL
    for (size_t r = 0; r < kCount; ++r) rows[r].base = scale * hn::ReduceSum(DF(), sum[r]);
}

template <bool kWeigh>
HWY_INLINE void ScorePage(const CodeShape& shape, const CodeQueries& queries, const std::byte* page,
                          const std::byte* ahead, const float* shift, float* out, float* sums, float* most) {
    float factors[3];
    std::memcpy(factors, page + shape.factors, sizeof factors);
    const auto d = static_cast<size_t>(shape.d);
    const auto* mean = reinterpret_cast<const int8_t*>(page + shape.mean);
    if (ahead != nullptr) {
        for (size_t at = shape.key_scale; at < shape.bytes; at += 64) __builtin_prefetch(ahead + at, 0, 2);
    }
    const auto n_rows = static_cast<size_t>(queries.rows);
    const bool apart = n_rows >= 2 * kRows && d <= kMostUnpacked;
    HWY_ALIGN uint32_t unpacked[kMostUnpacked / 4 * kKeys];
    if (apart) Unpack(page, d, unpacked);
    for (size_t row = 0; row < n_rows; row += kRows) {
        const size_t count = std::min(kRows, n_rows - row);
        Row rows[kRows];
        for (size_t r = 0; r < count; ++r) {
            const size_t at = row + r;
            rows[r] = {0.0f, queries.scale[at], queries.offset[at], kWeigh ? shift[at] : 0.0f};
        }
        const int8_t* codes = queries.codes + row * d;
        const auto score = [&]<size_t kCount, bool kUnpacked = false>() HWY_ATTR {
            DotMeans<kCount>(queries.exact + row * d, mean, d, factors[0], rows);
            ScoreRows<kCount, kWeigh, kUnpacked>(shape, page, unpacked, row == 0 ? ahead : nullptr, codes, rows,
                                                 out + row * kKeys, kWeigh ? sums + row : nullptr,
                                                 kWeigh ? most + row : nullptr);
        };
        if (apart && count == kRows) {
            score.template operator()<kRows, true>();
            continue;
        }
        switch (count) {
            case 1:
                score.template operator()<1>();
                break;
            case 2:
                score.template operator()<2>();
                break;
            case 3:
                score.template operator()<3>();
                break;
            case 4:
                score.template operator()<4>();
                break;
            case 5:
                score.template operator()<5>();
                break;
            case 6:
                score.template operator()<6>();
                break;
            default:
                if constexpr (kRows > 6) {
                    if (count == 7) {
                        score.template operator()<7>();
                    } else {
                        score.template operator()<8>();
                    }
                }
                break;
        }
    }
}

void ScoreCodes(const CodeShape& shape, const CodeQueries& queries, const std::byte* page, float* logits) {
    ScorePage<false>(shape, queries, page, nullptr, nullptr, logits, nullptr, nullptr);
}

void WeighCodes(const CodeShape& shape, const CodeQueries& queries, const std::byte* page, const std::byte* ahead,
                const float* shift, float* weights, float* sums, float* most) {
    ScorePage<true>(shape, queries, page, ahead, shift, weights, sums, most);
}

void CapScores(float* values, int64_t n, float cap) {
    const auto lanes = static_cast<int64_t>(hn::Lanes(DF()));
    const VF by = hn::Set(DF(), 1.0f / cap);
    const VF size = hn::Set(DF(), cap);
    for (int64_t i = 0; i < n; i += lanes)
        hn::StoreU(hn::Mul(size, hn::Tanh(DF(), hn::Mul(by, hn::LoadU(DF(), values + i)))), DF(), values + i);
}

void AddMask(const uint16_t* mask, int64_t count, float factor, float* logits) {
    const auto lanes = static_cast<int64_t>(hn::Lanes(DF()));
    const VF by = hn::Set(DF(), factor);
    int64_t i = 0;
    for (; i + lanes <= count; i += lanes)
        hn::StoreU(hn::MulAdd(by, LoadHalves(mask + i), hn::LoadU(DF(), logits + i)), DF(), logits + i);
    for (; i < count; ++i) logits[i] += factor * hwy::F32FromF16(hwy::float16_t::FromBits(mask[i]));
}

void WeighScores(float* values, int64_t rows, const float* shift, float* sums, float* most) {
    const size_t lanes = hn::Lanes(DF());
    for (int64_t row = 0; row < rows; ++row) {
        float* at = values + row * kCodeKeys;
        const VF by = hn::Set(DF(), shift[row]);
        VF sum = hn::Zero(DF());
        VF top = hn::Zero(DF());
        for (size_t key = 0; key < kKeys; key += lanes) {
            const VF weight = Weight(hn::Load(DF(), at + key), by);
            hn::Store(weight, DF(), at + key);
            sum = hn::Add(sum, weight);
            top = hn::Max(top, weight);
        }
        sums[row] = hn::ReduceSum(DF(), sum);
        most[row] = hn::ReduceMax(DF(), top);
    }
}

void ShareOfKeys(const float* weights, int64_t tokens, int64_t group, const float* factor, float* shares) {
    const size_t lanes = hn::Lanes(DF());
    for (size_t key = 0; key < kKeys; key += lanes) {
        VF largest = hn::Zero(DF());
        for (int64_t token = 0; token < tokens; ++token) {
            VF sum = hn::Zero(DF());
            for (int64_t h = 0; h < group; ++h) {
                const int64_t row = token * group + h;
                sum = hn::MulAdd(hn::Load(DF(), weights + row * kCodeKeys + static_cast<int64_t>(key)),
                                 hn::Set(DF(), factor[row]), sum);
            }
            largest = hn::Max(largest, sum);
        }
        hn::StoreU(largest, DF(), shares + key);
    }
}

uint64_t KeysAtLeast(const float* shares, float least) {
    const size_t lanes = hn::Lanes(DF());
    const VF bound = hn::Set(DF(), least);
    uint64_t keys = 0;
    for (size_t key = 0; key < kKeys; key += lanes)
        keys |= hn::BitsFromMask(DF(), hn::Ge(hn::LoadU(DF(), shares + key), bound)) << key;
    return keys;
}

void SumWeights(const float* weights, int64_t rows, uint64_t keys, float* sums) {
    const size_t lanes = hn::Lanes(DF());
    HWY_ALIGN float keep[kKeys];
    for (size_t key = 0; key < kKeys; ++key) keep[key] = (keys >> key & 1) != 0 ? 1.0f : 0.0f;
    for (int64_t row = 0; row < rows; ++row) {
        VF sum = hn::Zero(DF());
        for (size_t key = 0; key < kKeys; key += lanes)
            sum = hn::MulAdd(hn::LoadU(DF(), weights + row * kCodeKeys + static_cast<int64_t>(key)),
                             hn::Load(DF(), keep + key), sum);
        sums[row] = hn::ReduceSum(DF(), sum);
    }
}

/** out[row][d_v] += weights[row] · mean. */
HWY_INLINE void AddScaled(const int8_t* mean, int64_t d_v, const float* weights, int64_t rows, float* out) {
    const auto lanes = static_cast<int64_t>(hn::Lanes(DF()));
    int64_t i = 0;
    for (; i + lanes <= d_v; i += lanes) {
        const VF v = LoadSigned(mean + i);
        for (int64_t row = 0; row < rows; ++row) {
            float* to = out + row * d_v + i;
            hn::StoreU(hn::MulAdd(hn::Set(DF(), weights[row]), v, hn::LoadU(DF(), to)), DF(), to);
        }
    }
    for (; i < d_v; ++i) {
        for (int64_t row = 0; row < rows; ++row) out[row * d_v + i] += weights[row] * static_cast<float>(mean[i]);
    }
}

void AddRest(const CodeShape& shape, const std::byte* page, const float* sums, const float* squares, int64_t rows,
             float* total, float* out) {
    const ValueMean value = value_mean_of(shape, page);
    const VF factor = hn::Set(DF(), -0.69314718f * noise_of_codes(shape, page));
    const VF least = hn::Set(DF(), -126.0f);
    const auto lanes = static_cast<int64_t>(hn::Lanes(DF()));
    constexpr int64_t kSome = 16;  // lanes of the widest vectors
    HWY_ALIGN float scaled[kSome];
    for (int64_t row = 0; row < rows; row += lanes) {
        const auto count = static_cast<size_t>(std::min(lanes, rows - row));
        const VF trust = PowerOfTwo(hn::Max(hn::Mul(hn::LoadN(DF(), squares + row, count), factor), least));
        const VF weight = hn::Mul(hn::LoadN(DF(), sums + row, count), trust);
        hn::StoreN(hn::Add(hn::LoadN(DF(), total + row, count), weight), DF(), total + row, count);
        hn::Store(hn::Mul(weight, hn::Set(DF(), value.scale)), DF(), scaled);
        AddScaled(value.mean, shape.d_v, scaled, static_cast<int64_t>(count), out + row * shape.d_v);
    }
}

void AddValueMean(const ValueMean& value, int64_t d_v, const float* weights, int64_t rows, float* out) {
    constexpr int64_t kSome = 16;
    float scaled[kSome];
    for (int64_t row = 0; row < rows; row += kSome) {
        const int64_t count = std::min(kSome, rows - row);
        for (int64_t i = 0; i < count; ++i) scaled[i] = weights[row + i] * value.scale;
        AddScaled(value.mean, d_v, scaled, count, out + row * d_v);
    }
}

}  // namespace
}  // namespace atlas::kernels::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace atlas::kernels::cpu {

HWY_EXPORT(ScoreCodes);
HWY_EXPORT(WeighCodes);
HWY_EXPORT(CapScores);
HWY_EXPORT(AddMask);
HWY_EXPORT(WeighScores);
HWY_EXPORT(ShareOfKeys);
HWY_EXPORT(KeysAtLeast);
HWY_EXPORT(SumWeights);
HWY_EXPORT(AddRest);
HWY_EXPORT(AddValueMean);

void score_codes(const CodeShape& shape, const CodeQueries& queries, const std::byte* page, float* logits) {
    HWY_DYNAMIC_DISPATCH(ScoreCodes)(shape, queries, page, logits);
}
void weigh_codes(const CodeShape& shape, const CodeQueries& queries, const std::byte* page, const std::byte* ahead,
                 const float* shift, float* weights, float* sums, float* most) {
    if (can_weigh_in_tiles(shape, queries.rows)) {
        weigh_codes_tiles(shape, queries, page, ahead, shift, weights, sums, most);
    } else {
        HWY_DYNAMIC_DISPATCH(WeighCodes)(shape, queries, page, ahead, shift, weights, sums, most);
    }
}
void cap_scores(float* values, int64_t n, float cap) { HWY_DYNAMIC_DISPATCH(CapScores)(values, n, cap); }
void add_mask(const uint16_t* mask, int64_t count, float factor, float* logits) {
    HWY_DYNAMIC_DISPATCH(AddMask)(mask, count, factor, logits);
}
void weigh_scores(float* values, int64_t rows, const float* shift, float* sums, float* most) {
    HWY_DYNAMIC_DISPATCH(WeighScores)(values, rows, shift, sums, most);
}
void share_of_keys(const float* weights, int64_t tokens, int64_t group, const float* factor, float* shares) {
    HWY_DYNAMIC_DISPATCH(ShareOfKeys)(weights, tokens, group, factor, shares);
}
uint64_t keys_at_least(const float* shares, float least) { return HWY_DYNAMIC_DISPATCH(KeysAtLeast)(shares, least); }
void sum_weights(const float* weights, int64_t rows, uint64_t keys, float* sums) {
    HWY_DYNAMIC_DISPATCH(SumWeights)(weights, rows, keys, sums);
}
void add_rest(const CodeShape& shape, const std::byte* page, const float* sums, const float* squares, int64_t rows,
              float* total, float* out) {
    HWY_DYNAMIC_DISPATCH(AddRest)(shape, page, sums, squares, rows, total, out);
}
void add_value_mean(const ValueMean& value, int64_t d_v, const float* weights, int64_t rows, float* out) {
    HWY_DYNAMIC_DISPATCH(AddValueMean)(value, d_v, weights, rows, out);
}

}  // namespace atlas::kernels::cpu
#endif
