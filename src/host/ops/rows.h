#pragma once

#include <ggml.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "base/parallel.h"

namespace atlas::host {

/** Elements below which one thread is done before others have begun. */
constexpr int64_t kSerialElements = 16 * 1024;

/** Indices of a row. */
struct Row {
    int64_t i1, i2, i3;
};

/** The row of a tensor of f32; one of fewer rows repeats. */
inline float* row_of(const ggml_tensor* tensor, Row row) {
    auto* data = static_cast<std::byte*>(tensor->data);
    return reinterpret_cast<float*>(data + static_cast<size_t>(row.i1 % tensor->ne[1]) * tensor->nb[1] +
                                    static_cast<size_t>(row.i2 % tensor->ne[2]) * tensor->nb[2] +
                                    static_cast<size_t>(row.i3 % tensor->ne[3]) * tensor->nb[3]);
}

/** Whether it is f32 with rows whose elements lie together. */
inline bool has_plain_rows(const ggml_tensor* tensor) {
    return tensor->type == GGML_TYPE_F32 && tensor->nb[0] == sizeof(float);
}

/** fn(Row) for all rows of a tensor, on several threads where it is worth it. */
template <class Fn>
void for_rows(const ggml_tensor* tensor, int n_threads, const Fn& fn) {
    const int64_t n1 = tensor->ne[1], n2 = tensor->ne[2];
    const int64_t rows = n1 * n2 * tensor->ne[3];
    const auto run = [&](int64_t i) { fn(Row{i % n1, i / n1 % n2, i / n1 / n2}); };
    if (rows * tensor->ne[0] <= kSerialElements) n_threads = 1;
    parallel_for(rows, n_threads, Schedule::kStatic, run);
}

}  // namespace atlas::host
