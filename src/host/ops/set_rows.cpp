#include "host/ops/set_rows.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/parallel.h"
#include "host/buffers/owner_buffer.h"
#include "kernels/row_codec.h"

namespace atlas::host {
namespace {

// Below this many elements a parallel region costs more than it saves.
constexpr int64_t kParallelElements = 1 << 15;

const std::byte* element(const ggml_tensor* tensor, int64_t i1, int64_t i2, int64_t i3) {
    return static_cast<const std::byte*>(tensor->data) + i1 * static_cast<int64_t>(tensor->nb[1]) +
           i2 * static_cast<int64_t>(tensor->nb[2]) + i3 * static_cast<int64_t>(tensor->nb[3]);
}

int64_t row_number(const ggml_tensor* rows, int64_t i, int64_t i2, int64_t i3) {
    const auto* data = static_cast<const std::byte*>(rows->data) + i * static_cast<int64_t>(rows->nb[0]) +
                       (i2 % rows->ne[1]) * static_cast<int64_t>(rows->nb[1]) +
                       (i3 % rows->ne[2]) * static_cast<int64_t>(rows->nb[2]);
    if (rows->type == GGML_TYPE_I64) {
        int64_t value;
        std::memcpy(&value, data, sizeof value);
        return value;
    }
    int32_t value;
    std::memcpy(&value, data, sizeof value);
    return value;
}

/** Converts one row of `n` elements; `scratch` holds n floats. */
void convert(const ggml_tensor* source, const std::byte* from, ggml_type to, std::byte* row, int64_t n,
             float* scratch) {
    if (source->type == to) {
        std::memcpy(row, from, ggml_row_size(to, n));
        return;
    }
    const float* values = reinterpret_cast<const float*>(from);
    if (source->type != GGML_TYPE_F32) {
        ggml_get_type_traits(source->type)->to_float(from, scratch, n);
        values = scratch;
    }
    switch (to) {
        case GGML_TYPE_F32:
            std::memcpy(row, values, static_cast<size_t>(n) * sizeof(float));
            break;
        // ggml's portable encoders of these call a library function per element.
        case GGML_TYPE_F16:
            kernels::encode_row(DataType::kF16, values, row, n);
            break;
        case GGML_TYPE_BF16:
            kernels::encode_row(DataType::kBF16, values, row, n);
            break;
        case GGML_TYPE_Q8_0:
            kernels::encode_row(DataType::kQ8_0, values, row, n);
            break;
        default:
            ggml_get_type_traits(to)->from_float_ref(values, row, n);
    }
}

/** A row of a tensor, from its number in order. */
struct RowIndex {
    int64_t i1, i2, i3;
    static RowIndex of(const ggml_tensor* tensor, int64_t flat) {
        if (flat < tensor->ne[1]) return {flat, 0, 0};  // as good as always, and without divisions
        return {flat % tensor->ne[1], flat / tensor->ne[1] % tensor->ne[2], flat / tensor->ne[1] / tensor->ne[2]};
    }
};

/**
 * Where the rows of a SET_ROWS go. Holds the lease of the page that it was asked for last: consecutive rows, the usual case, cost one lease a
 * page. For one thread.
 */
class Destination {
public:
    Destination(const ggml_tensor* op, const Placement& place, size_t row_size)
        : op_(op), place_(place), row_size_(row_size) {}

    /** Byte of the table at which a row begins. */
    size_t offset_of(const RowIndex& row) const {
        return place_.offset +
               static_cast<size_t>(element(op_, row.i1, row.i2, row.i3) - static_cast<const std::byte*>(op_->data));
    }

    /** Memory of a row; nullptr and an error in `status`: out of memory, a row that is not inside one page. */
    std::byte* row(const RowIndex& row, Status* status) {
        if (!place_.pages) return const_cast<std::byte*>(element(op_, row.i1, row.i2, row.i3));
        const size_t offset = offset_of(row);
        const bool leased = lease_.data() != nullptr && offset >= begin_ && offset + row_size_ <= end_;
        if (!leased && !lease_page_of(offset, status)) return nullptr;
        return lease_.data() + (offset - begin_);
    }

private:
    bool lease_page_of(size_t offset, Status* status) {
        begin_ = offset / place_.pages->page_bytes() * place_.pages->page_bytes();
        end_ = std::min(begin_ + place_.pages->page_bytes(), place_.pages->bytes());
        if (offset + row_size_ > end_) {
            *status =
                Status::unsupported("row of " + std::to_string(row_size_) + " bytes at " + std::to_string(offset) +
                                    ": not inside a page of " + std::to_string(place_.pages->page_bytes()));
            return false;
        }
        *status = place_.pages->lease(begin_, end_ - begin_, &lease_);
        return status->is_ok();
    }

    const ggml_tensor* op_;
    const Placement place_;
    const size_t row_size_;
    kv::WriteLease lease_;
    size_t begin_ = 0, end_ = 0;  // bytes of the table that are leased
};

Status no_row(int64_t number) {
    return Status::invalid_argument("row " + std::to_string(number) + ": outside of its tensor");
}

/**
 * Makes the pages of rows 0 … total − 1 exist, whose places `target_of` knows, and stay while `held` lives. Errors: those of target_of, out of memory. Throws std::bad_alloc.
 */
template <typename TargetOf>
Status reserve_pages(kv::PageTable& pages, int64_t total, const Destination& destination, const TargetOf& target_of,
                     kv::Pinned* held) {
    const auto for_each_page = [&](auto visit) {
        int64_t last = -1;
        for (int64_t flat = 0; flat < total; ++flat) {
            RowIndex row;
            if (!target_of(flat, &row)) return no_row(row.i1);
            const auto page = static_cast<int64_t>(destination.offset_of(row) / pages.page_bytes());
            if (page == last) continue;
            last = page;
            if (page >= pages.pages()) return no_row(row.i1);
            visit(page);
        }
        return Status::ok();
    };
    bool reserved = true;
    if (Status status = for_each_page([&](int64_t page) { reserved = reserved && pages.is_reserved(page); });
        !status.is_ok() || (reserved && !pages.is_paged()))
        return status;
    // All of them, as room for some may be made of others that hold nothing any more.
    std::vector<bool> is_needed(static_cast<size_t>(pages.pages()));
    if (Status status = for_each_page([&](int64_t page) { is_needed[static_cast<size_t>(page)] = true; });
        !status.is_ok())
        return status;
    std::vector<kv::PageRange> needed;
    for (int64_t page = 0; page < pages.pages(); ++page) {
        if (is_needed[static_cast<size_t>(page)]) needed.push_back({page, 1});
    }
    return pages.reserve(needed, held);
}

}  // namespace

bool supports_set_rows(const ggml_tensor* op) {
    const ggml_type from = op->src[0]->type;
    const ggml_type index = op->src[1]->type;
    if (index != GGML_TYPE_I64 && index != GGML_TYPE_I32) return false;
    if (from == op->type && from != GGML_TYPE_F32 && from != GGML_TYPE_F16) return false;
    if (from != GGML_TYPE_F32 && from != GGML_TYPE_F16) return false;
    return op->type == GGML_TYPE_F32 || op->type == from || ggml_get_type_traits(op->type)->from_float_ref != nullptr;
}

Status set_rows(const ggml_tensor* op, int n_threads) {
    const ggml_tensor* source = op->src[0];
    const ggml_tensor* rows = op->src[1];
    const Placement place = placement_of(op);
    const int64_t n = source->ne[0];
    const size_t row_size = ggml_row_size(op->type, n);
    const int64_t n_rows = source->ne[1];
    const int64_t total = n_rows * source->ne[2] * source->ne[3];

    const bool damaged = place.pages && place.pages->is_damaged();
    std::mutex mutex;  // guards status
    Status status;
    const auto fail = [&](Status error) {
        const std::lock_guard lock(mutex);
        if (status.is_ok()) status = std::move(error);
    };
    const auto target_of = [&](int64_t flat, RowIndex* out) {
        const RowIndex from = RowIndex::of(source, flat);
        *out = {row_number(rows, from.i1, from.i2, from.i3), from.i2, from.i3};
        return out->i1 >= 0 && out->i1 < op->ne[1];
    };
    kv::Pinned held;
    // One row's lease is had or not; with a disk it may have to be read first.
    if (place.pages && !(total == 1 && place.pages->is_paged())) {
        // All pages first, while no thread holds a lease: all rows are written, or none.
        if (Status reserved = reserve_pages(*place.pages, total, Destination(op, place, row_size), target_of, &held);
            !reserved.is_ok())
            return reserved;
    }
    const auto write = [&](int64_t flat, Destination* destination, float* scratch) {
        RowIndex to;
        if (!target_of(flat, &to)) return fail(no_row(to.i1));
        Status error;
        std::byte* target = destination->row(to, &error);
        if (!target) return fail(std::move(error));
        const RowIndex from = RowIndex::of(source, flat);
        convert(source, element(source, from.i1, from.i2, from.i3), op->type, target, n, scratch);
        if (damaged) place.pages->mend(destination->offset_of(to), row_size);
    };

    const int threads = total * n < kParallelElements ? 1 : std::min<int>(n_threads, static_cast<int>(total));
    std::vector<float> scratch(source->type == GGML_TYPE_F32 ? 0 : static_cast<size_t>(threads * n));
    // A share of rows per thread, each with a lease of its own on the pages it is in.
    parallel_for(threads, threads, Schedule::kStatic, [&](int64_t share) {
        Destination destination(op, place, row_size);
        float* const values = scratch.data() + (scratch.empty() ? 0 : share * n);
        for (int64_t flat = total * share / threads; flat < total * (share + 1) / threads; ++flat)
            write(flat, &destination, values);
    });
    return status;
}

}  // namespace atlas::host
