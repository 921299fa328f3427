#include <algorithm>
#include <bit>
#include <new>

#include "kernels/cpu/attention/problem.h"
#include "kernels/cpu/cpu.h"

namespace atlas::kernels::cpu {
namespace {

/** Rows of V of a list, a block at a time, wherever they lie. */
class ValueRows {
public:
    ValueRows(const HeadRuns& list, int64_t stride) : list_(list), stride_(stride), run_(list.runs.begin()) {}

    /** The next rows, at most kBlockKeys; returns how many. From there on `rows` holds the last one again. */
    size_t next(const std::byte** rows) {
        size_t n = 0;
        while (n < kBlockKeys && run_ != list_.runs.end()) {
            const std::byte* first = run_->v + list_.v_offset;
            if (run_->has_gaps()) {
                if (offset_ == 0) cells_ = run_->cells;
                for (; n < kBlockKeys && cells_ != 0; cells_ &= cells_ - 1, ++offset_)
                    rows[n++] = first + std::countr_zero(cells_) * stride_;
            } else {
                for (; n < kBlockKeys && offset_ < run_->count; ++offset_) rows[n++] = first + offset_ * stride_;
            }
            if (offset_ < run_->count) break;
            offset_ = 0;
            ++run_;
        }
        if (n > 0) std::fill(rows + n, rows + kBlockKeys, rows[n - 1]);
        return n;
    }

private:
    const HeadRuns& list_;
    const int64_t stride_;
    std::span<const Run>::iterator run_;
    int64_t offset_ = 0;  // keys of run_ already passed
    uint64_t cells_ = 0;  // of a run with gaps: those not yet passed
};

}  // namespace

Status add_values(const ValueSum& sum) {
    try {
        const RowOps ops = row_ops(sum.v_type);
        const auto d = static_cast<size_t>(sum.d_v);
        const size_t padded = (d + kChunk - 1) / kChunk * kChunk;
        const auto rows = static_cast<size_t>(sum.rows);
        const bool decodes = sum.v_type == DataType::kOther;
        float* out = thread_scratch().get(rows * padded + (decodes ? kBlockKeys * d : 0));
        float* decoded = out + rows * padded;
        std::fill(out, out + rows * padded, 0.0f);
        ValueRows walk(*sum.runs, sum.v_stride);
        // Each block is worked on when the next one is known, so that its rows can be on their way.
        const std::byte* blocks[2][kBlockKeys];
        const float* weights = sum.weights;
        size_t count = walk.next(blocks[0]);
        for (size_t at = 0; count > 0; at ^= 1) {
            const size_t following = walk.next(blocks[at ^ 1]);
            const std::byte** values = blocks[at];
            const std::byte* apart[kBlockKeys];
            if (decodes) {
                for (size_t j = 0; j < kBlockKeys; ++j) {
                    float* row = decoded + std::min(j, count - 1) * d;
                    apart[j] = reinterpret_cast<const std::byte*>(row);
                    if (j < count) sum.v_decode(values[j], row, sum.d_v);
                }
                values = apart;
            }
            ops.value(weights, static_cast<size_t>(sum.weights_stride), rows, {values, 0, 0}, count, d, out, padded,
                      following > 0 && !decodes ? blocks[at ^ 1] : nullptr);
            weights += count;
            count = following;
        }
        for (size_t row = 0; row < rows; ++row) {
            for (size_t i = 0; i < d; ++i) sum.out[row * d + i] += out[row * padded + i];
        }
        return Status::ok();
    } catch (const std::bad_alloc&) {
        return Status::out_of_memory("attention: a thread's workspace");
    }
}

}  // namespace atlas::kernels::cpu
