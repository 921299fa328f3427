#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/data_type.h"
#include "kernels/cuda/sparse.h"

// A problem of sparse attention whose pages lie on the emulated device, and its float64 answer.

namespace atlas::kernels::cuda::test {

struct SparseSpec {
    int64_t d_k = 64, d_v = 64;
    int64_t n_head = 4, n_head_kv = 2, n_stream = 1;
    int64_t n_tokens = 1, tile_tokens = 1;
    int64_t far_pages = 9;   ///< of the last tile; the first may have fewer
    int64_t near_keys = 70;  ///< behind the far pages
    DataType k_type = DataType::kF16, v_type = DataType::kF16;
    float softcap = 0.0f;
    bool sinks = false;
    bool mask = true;     ///< causal over the near keys
    float sharpness = 2;  ///< of the attention
    SparseBudget budget{.least = 8, .most = 64, .share = 0.002f};
    unsigned seed = 1;
};
std::string describe(const SparseSpec& spec);

class SparseProblem {
public:
    /** Fills memory of `device` and encodes the far pages on it. */
    SparseProblem(Device& device, const SparseSpec& spec);

    /** Of SparseAttention. */
    SparseCall call;
    const SparseSpec& spec() const { return spec_; }
    size_t rows() const { return static_cast<size_t>(spec_.n_stream * spec_.n_tokens * spec_.n_head); }
    int64_t group() const { return spec_.n_head / spec_.n_head_kv; }
    int64_t lists() const { return static_cast<int64_t>(far_lists_.size()); }
    int64_t pages_of(int64_t list) const {
        return far_lists_[static_cast<size_t>(list)].end - far_lists_[static_cast<size_t>(list)].begin;
    }

    std::vector<float> out() const;
    std::vector<float> lse() const;
    /** Bit per key of page p of a list. */
    uint64_t selected(const SparseAttention& sparse, int64_t list, int64_t p) const;

    /** Shares of the 64 keys of each far page of a list, [p][64], from the queries and codes that lie on the device. */
    std::vector<double> shares(const SparseAttention& sparse, int64_t list) const;
    /** out [row][d_v] and lse [row] where these keys are selected. */
    void answer(const SparseAttention& sparse, std::vector<double>* out, std::vector<double>* lse) const;

private:
    struct Row {
        int64_t stream, token, head;
    };
    Row row_of(int64_t list, int64_t row) const;
    int64_t rows_of(int64_t list) const;
    int64_t index_of(const Row& row) const {
        return (row.stream * spec_.n_tokens + row.token) * spec_.n_head + row.head;
    }
    /** In units of ln 2, of the estimate: [row of the list][page][64]. */
    std::vector<double> code_logits(const SparseAttention& sparse, int64_t list) const;
    double logit(const Row& row, int64_t key) const;
    bool near_visible(const Row& row, int64_t key) const;
    std::vector<double> near_lse(int64_t list) const;
    std::vector<double> whole(const SparseAttention& sparse, int64_t list, const std::vector<double>& logits) const;

    template <class T>
    T* put(const std::vector<T>& values);

    SparseSpec spec_;
    Device& device_;
    int64_t keys_ = 0;  ///< of a stream, in whole pages
    std::vector<Buffer> buffers_;
    std::vector<float> q_, sinks_, signs_;
    std::vector<double> k_, v_;  ///< [stream][key][KV head][d]: as stored
    std::vector<FarPage> far_pages_;
    std::vector<FarList> far_lists_;
    std::vector<unsigned> broken_;
    float* out_ = nullptr;
    float* lse_ = nullptr;
};

}  // namespace atlas::kernels::cuda::test
