#include "host/ops/cell_check.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "host/buffers/owner_buffer.h"
#include "host/graph/op_kind.h"

namespace atlas::host {
namespace {

constexpr uint16_t kHidden = 0xFC00;  // f16 minus infinity

/** Whether a query of the stream sees a cell. Without a mask that can be read, it does. */
bool is_shown(const ggml_tensor* mask, int64_t n_tokens, int64_t stream, int64_t cell) {
    if (!mask || placement_of(mask).pages || cell >= mask->ne[0]) return true;
    for (int64_t head = 0; head < mask->ne[2]; ++head) {
        for (int64_t token = 0; token < std::min(n_tokens, mask->ne[1]); ++token) {
            const auto* row = static_cast<const std::byte*>(mask->data) + static_cast<size_t>(token) * mask->nb[1] +
                              static_cast<size_t>(head) * mask->nb[2] +
                              static_cast<size_t>(stream % mask->ne[3]) * mask->nb[3];
            uint16_t value = 0;
            std::memcpy(&value, row + static_cast<size_t>(cell) * sizeof value, sizeof value);
            if (value != kHidden) return true;
        }
    }
    return false;
}

Status damaged(const ggml_tensor* tensor, const kv::PageTable& table) {
    const Status reason = table.damage();
    const std::string words = !reason.message().empty()                   ? reason.message()
                              : reason.code() == StatusCode::kOutOfMemory ? "no memory was left"
                                                                          : "a graph that changes it in place failed";
    return {reason.code(),
            "'" + std::string(root_of(tensor)->name) +
                "' does not hold what the host put there, until it is written again or cleared: " + words};
}

/** K or V of an attention node. */
Status check_keys(const ggml_tensor* node, const ggml_tensor* keys) {
    const Placement place = placement_of(keys);
    if (!place.pages || !place.pages->is_damaged()) return Status::ok();
    const kv::PageTable& table = *place.pages;
    for (int64_t stream = 0; stream < keys->ne[3]; ++stream) {
        const size_t start = place.offset + static_cast<size_t>(stream) * keys->nb[3];
        for (int64_t cell = 0; cell < keys->ne[1]; ++cell) {
            const auto row =
                static_cast<int64_t>((start + static_cast<size_t>(cell) * keys->nb[1]) / table.row_bytes());
            if (table.is_damaged(row, row + 1) && is_shown(node->src[3], node->src[0]->ne[1], stream, cell))
                return damaged(keys, table);
        }
    }
    return Status::ok();
}

Status check_operand(const ggml_tensor* operand) {
    const Placement place = placement_of(operand);
    if (!place.pages || !place.pages->is_damaged()) return Status::ok();
    const size_t row = place.pages->row_bytes();
    const size_t end = place.offset + ggml_nbytes(operand);
    const bool spoilt =
        place.pages->is_damaged(static_cast<int64_t>(place.offset / row), static_cast<int64_t>((end + row - 1) / row));
    return spoilt ? damaged(operand, *place.pages) : Status::ok();
}

}  // namespace

Status check_attended(const ggml_tensor* attention) {
    if (Status status = check_keys(attention, attention->src[1]); !status.is_ok()) return status;
    return check_keys(attention, attention->src[2]);
}

Status check_operands(const ggml_tensor* node) {
    if (op_kind(node->op) == OpKind::kRope) return Status::ok();
    for (const ggml_tensor* src : node->src) {
        if (!src) continue;
        if (Status status = check_operand(src); !status.is_ok()) return status;
    }
    return Status::ok();
}

void note_live_cells(const ggml_tensor* attention) {
    for (const ggml_tensor* keys : {attention->src[1], attention->src[2]}) {
        const Placement place = placement_of(keys);
        if (!place.pages || keys->nb[1] != place.pages->row_bytes()) continue;
        const int64_t stream_rows = root_of(keys)->ne[1];
        for (int64_t stream = 0; stream < keys->ne[3]; ++stream) {
            const size_t start = place.offset + static_cast<size_t>(stream) * keys->nb[3];
            const auto first = static_cast<int64_t>(start / keys->nb[1]);
            // Only where it looks at whole cells from a stream's first one on is the end of what it looks at that of all that is in use.
            if (start % keys->nb[1] != 0 || first % stream_rows != 0) continue;
            place.pages->note_live(first, first + keys->ne[1], first + stream_rows);
        }
    }
}

}  // namespace atlas::host
