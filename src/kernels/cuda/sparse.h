#pragma once

#include <cstdint>

#include "base/status.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/plan.h"
#include "kernels/cuda/sparse_arguments.h"

namespace atlas::kernels::cuda {

/** Which of its far keys a list selects, and what becomes of the others. */
struct SparseBudget {
    int64_t least = 0;  ///< keys, whatever they hold
    int64_t most = 0;   ///< keys; not below `least`
    /** Above `least`: of a token's attention, summed over the heads of the group, that a key has to hold. */
    float share = 0.0f;
    bool rest = true;  ///< what is not selected is estimated; else left out
};

/** A call over memory of the device. */
struct SparseCall {
    /** The keys that are read in any case: pages, lists, mask, sinks, softcap. Its out and lse (or nullptr) get the whole's; what belongs to splits is ignored. */
    AttentionArguments near{};
    int64_t near_pages = 0;          ///< of the longest list of `near`
    const FarPage* pages = nullptr;  ///< what is selected from, with fresh codes
    const FarList* lists = nullptr;  ///< as many as near.lists
    int64_t far_pages = 0;           ///< of the longest far list
    const float* signs = nullptr;    ///< [2][d] of the codes' rotation
    SparseBudget budget;
    float* logits = nullptr;  ///< for tests: SparseArguments::logits
};

/** What tests force; 0 leaves the choice to the plan. */
struct SparseTuning {
    int splits = 0;
};

/**
 * Sparse attention on a device: window and selected keys exactly, an estimate of the rest, merged. Six launches, nothing is waited for: call Device::wait
 * before `out` is read. Holds what lies between the launches, for one stream; it only grows. As exact as the codes are: what is selected is what
 * attention::KeySelector selects, but for rounding.
 */
class SparseAttention {
public:
    /** `device` outlives this. */
    explicit SparseAttention(Device& device) : device_(device) {}

    /**
     * Unsupported: ALiBi, lists of more than kMostSparseRows rows, types and head sizes that check_attention declines. Other errors are the driver's;
     * `out` is then undefined.
     */
    Status run(const SparseCall& call, const SparseTuning& tuning = {});

    /** What the last run() handed to its kernels: cells and lists of what was selected, for tests. */
    const SparseArguments& arguments() const { return arguments_; }
    const Buffer& cells() const { return cells_; }

private:
    Status reserve(const SparseCall& call, const AttentionPlan& near, const AttentionPlan& selected);
    Status grow(Buffer* buffer, size_t bytes);
    Status attend(const AttentionPlan& plan, AttentionArguments a);

    Device& device_;
    SparseArguments arguments_{};
    Buffer exact_, codes_, scale_, offset_, squares_, near_lse_;
    Buffer sums_, bounds_, levels_, whole_, shares_, cells_, selected_, lists_;
    Buffer selected_out_, selected_lse_, partial_, rest_, tickets_;
};

/** Codes of `n_pages` pages of `n_heads` KV heads, as EncodeArguments says. Nothing is waited for. */
Status encode_pages(Device& device, const EncodeArguments& arguments, int64_t n_pages, int64_t n_heads);

}  // namespace atlas::kernels::cuda
