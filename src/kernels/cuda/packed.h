#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/attention.h"
#include "kernels/cuda/arguments.h"

namespace atlas::kernels::cuda {

/**
 * An attention call over host memory as the kernels want it: runs cut into pages whose rows lie behind each other, one table of
 * pages and one of lists, queries without gaps. Addresses in `pages` are offsets into `rows` until relocate().
 */
struct PackedAttention {
    explicit PackedAttention(const AttentionArgs& args);

    /** Adds the address that `rows` has on the device to those of the pages. */
    void relocate(uint64_t rows_address);

    std::vector<std::byte> rows;  ///< K and V of all pages; what no run holds is bytes of ones (NaN)
    std::vector<Page> pages;
    std::vector<PageList> lists;  ///< [n_stream][n_head_kv][tiles]
    std::vector<float> q;         ///< [n_stream][n_tokens][n_head][d_k]
    std::vector<float> slopes;    ///< [n_head], empty without ALiBi
    int64_t k_stride = 0, v_stride = 0;
    int64_t tile_tokens = 0, tiles = 0;
    int64_t longest_list = 0;   ///< pages
    int64_t mask_elements = 0;  ///< of args.mask.data that kernels may read

private:
    uint64_t add_rows(const std::byte* from, int64_t from_stride, size_t row_bytes, int64_t to_stride, uint64_t cells);
    void add_run(const AttentionArgs& args, const HeadRuns& head, const Run& run);

    int64_t last_key_ = -1;
};

}  // namespace atlas::kernels::cuda
