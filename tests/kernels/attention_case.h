#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "kernels/attention.h"
#include "kernels/row_codec.h"

namespace atlas::kernels::test {

enum class MaskKind { kNone, kCausal, kRandom, kAllHidden };

/** Shape and options of one attention problem; everything else is drawn from `seed`. */
struct CaseSpec {
    int64_t d_k = 64;
    int64_t d_v = 64;
    int64_t n_tokens = 1;
    int64_t n_head = 4;
    int64_t n_head_kv = 2;
    int64_t n_stream = 1;
    int64_t n_keys = 100;
    DataType k_type = DataType::kF16;
    DataType v_type = DataType::kF16;
    MaskKind mask = MaskKind::kCausal;
    bool summary = true;
    float max_bias = 0.0f;
    float softcap = 0.0f;
    bool sinks = false;
    int64_t run_keys = 0;  ///< 0: one run; else runs of up to that many keys
    int64_t tokens_per_tile = INT64_MAX;
    size_t misalign = 0;  ///< bytes by which K and V start off alignment
    uint64_t seed = 1;
};

/** Owns the data of a problem whose K and V are cell-major: all KV heads of a cell in one row, as llama.cpp lays caches out. */
class Case {
public:
    explicit Case(const CaseSpec& spec);

    AttentionArgs args;
    std::vector<float> out;
    std::vector<float> lse;

private:
    std::vector<std::byte> encode(DataType type, int64_t d, size_t misalign, std::mt19937_64& rng) const;
    void make_runs();
    void make_mask(std::mt19937_64& rng);

    CaseSpec spec_;
    std::vector<std::byte> k_, v_;
    std::vector<float> q_, sinks_;
    std::vector<uint16_t> mask_;
    std::vector<BlockVisibility> summary_;
    std::vector<Run> runs_;
    std::vector<HeadRuns> heads_;
};

/** The worst row: largest |a − b| of `row` consecutive values, divided by the largest |b| among them or `floor`. Infinite if one is not finite where the other is. */
double row_error(const std::vector<float>& a, const std::vector<float>& b, int64_t row, double floor);

/** Values are drawn with variance 1, and f32 rounds those, not their mean: below this a row's size says nothing about its error. */
inline constexpr double kOutputFloor = 0.01;

/** row_error of the outputs, a row being one head of one token. */
double output_error(const Case& actual, const Case& expected);
/** Error of the log-sum-exps, one by one: absolute below 1, since they are logarithms. */
double lse_error(const Case& actual, const Case& expected);

std::string describe(const CaseSpec& spec);

}  // namespace atlas::kernels::test
