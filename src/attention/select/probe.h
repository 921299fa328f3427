#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "attention/plan/visibility.h"
#include "kernels/attention.h"

namespace atlas::attention {

/** Uniform numbers in (0, 1) from the seed and the query itself, so that the same query draws the same blocks wherever it is computed. */
class ProbeRandom {
public:
    ProbeRandom(uint64_t seed, const float* query, int64_t d);
    double next();

private:
    uint64_t state_;
};

/** ln Σ_j e^{q·k_j} over these keys of a list; q already scaled. `work` is a buffer that grows. Throws std::bad_alloc. */
double log_mass(const kernels::AttentionArgs& args, const kernels::HeadRuns& list, std::span<const PageCells> keys,
                const float* q, std::vector<float>* work);

/**
 * The run of a list (ascending by key) that holds `key`, or nullptr. `at`, 0 to begin with, remembers where that was: near by when keys ascend.
 */
const kernels::Run* find_run(const kernels::HeadRuns& list, int64_t key, size_t* at);

/**
 * Appends keys [key, key + count) of a list to `out`, split where the list's runs are; adjoining parts become one run. `at` as for
 * find_run.
 */
void append_runs(const kernels::AttentionArgs& args, const kernels::HeadRuns& list, int64_t key, int64_t count,
                 size_t* at, std::vector<kernels::Run>* out);

/** Appends the cells of a page to `out`: as one run where the page lies in one of the list's. `at` as for find_run. */
void append_cells(const kernels::AttentionArgs& args, const kernels::HeadRuns& list, const PageCells& page, size_t* at,
                  std::vector<kernels::Run>* out);

/** decode_page() of `pages` pages, one after the other. */
void decode_pages(const kernels::AttentionArgs& args, const kernels::HeadRuns& list, int64_t key, int64_t pages,
                  float* k, float* v);

/** Rows of the 64 keys from `key` on as f32: k [64][d_k], v [64][d_v]; either may be null. */
void decode_page(const kernels::AttentionArgs& args, const kernels::HeadRuns& list, int64_t key, float* k, float* v);

}  // namespace atlas::attention
