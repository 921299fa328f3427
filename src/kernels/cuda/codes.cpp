#include "kernels/cuda/codes.h"

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/cuda/uploads.h"

namespace atlas::kernels::cuda {
namespace {

Status check_size(const char* what, int64_t d) {
    if (d >= 1 && d <= kMaxHead) return Status::ok();
    return Status::unsupported("codes on CUDA: " + std::string(what) + " size " + std::to_string(d) +
                               ": allowed are up to " + std::to_string(kMaxHead));
}

/** Downloads follow what `status` says of all before; then waits for all. */
Status finish(Device& device, Uploads& uploads, Status status,
              std::initializer_list<std::tuple<void*, size_t, size_t>> results) {
    for (const auto& [to, buffer, bytes] : results) {
        if (status.is_ok()) status = device.download(to, uploads.at(buffer), bytes);
    }
    if (Status waited = uploads.wait(); status.is_ok()) status = waited;
    return status;
}

/** prepare_rows of rows without gaps; its results are buffers 1 … 5 of `uploads`. */
Status prepare(Device& device, Uploads& uploads, const float* rows, const float* signs, int64_t n, int64_t d,
               bool with_codes) {
    const auto elements = static_cast<size_t>(n * d);
    const auto numbers = static_cast<size_t>(n) * sizeof(float);
    PrepareArguments p{};
    p.q = reinterpret_cast<const float*>(uploads.add(rows, elements * sizeof(float)));
    p.exact = reinterpret_cast<float*>(uploads.add(nullptr, elements * sizeof(float)));
    if (with_codes) {
        p.codes = reinterpret_cast<int8_t*>(uploads.add(nullptr, elements));
        p.scale = reinterpret_cast<float*>(uploads.add(nullptr, numbers));
        p.offset = reinterpret_cast<float*>(uploads.add(nullptr, numbers));
        p.squares = reinterpret_cast<float*>(uploads.add(nullptr, numbers));
    }
    if (signs) p.signs = reinterpret_cast<const float*>(uploads.add(signs, 2 * static_cast<size_t>(d) * sizeof(float)));
    p.token_stride = d;
    p.rows = p.n_tokens = static_cast<int32_t>(n);
    p.n_head = 1;
    p.d_k = p.d = static_cast<int32_t>(d);
    p.largest_code = largest_query_code(d);
    p.factor = 1.0f;
    if (!uploads.status().is_ok()) return uploads.status();
    return device.launch(Kernel::prepare_rows, static_cast<uint32_t>((n + kSparseWarps - 1) / kSparseWarps), 1, &p);
}

}  // namespace

CodeLayout layout_of(const CodeShape& shape) {
    return {static_cast<int32_t>(shape.d),          static_cast<int32_t>(shape.d_v),
            static_cast<int32_t>(shape.key_scale),  static_cast<int32_t>(shape.mean),
            static_cast<int32_t>(shape.value_mean), static_cast<int32_t>(shape.factors)};
}

Status rotate_rows(Device& device, const float* signs, int64_t rows, int64_t d, float* x) {
    if (Status status = check_size("key", d); !status.is_ok() || rows == 0) return status;
    Uploads uploads(device);
    Status status = prepare(device, uploads, x, signs, rows, d, false);
    return finish(device, uploads, std::move(status), {{x, 1, static_cast<size_t>(rows * d) * sizeof(float)}});
}

Status quantise_queries(Device& device, const float* exact, int64_t rows, int64_t d, int8_t* codes, float* scale,
                        float* offset, float* squares) {
    if (Status status = check_size("key", d); !status.is_ok() || rows == 0) return status;
    Uploads uploads(device);
    Status status = prepare(device, uploads, exact, nullptr, rows, d, true);
    const auto numbers = static_cast<size_t>(rows) * sizeof(float);
    return finish(
        device, uploads, std::move(status),
        {{codes, 2, static_cast<size_t>(rows * d)}, {scale, 3, numbers}, {offset, 4, numbers}, {squares, 5, numbers}});
}

Status encode_codes(Device& device, const CodeShape& shape, const float* keys, const float* values, std::byte* page,
                    bool* finite) {
    if (Status status = check_size("key", shape.d); !status.is_ok()) return status;
    if (Status status = check_size("value", shape.d_v); !status.is_ok()) return status;
    const auto bytes_of = [](int64_t d) { return static_cast<size_t>(kCodeKeys * d) * sizeof(float); };
    Uploads uploads(device);
    FarPage one{};
    one.codes = reinterpret_cast<unsigned char*>(uploads.add(page, shape.bytes));
    one.k = reinterpret_cast<const unsigned char*>(uploads.add(keys, bytes_of(shape.d)));
    one.v = reinterpret_cast<const unsigned char*>(uploads.add(values, bytes_of(shape.d_v)));
    EncodeArguments e{};
    e.pages = reinterpret_cast<const FarPage*>(uploads.add(&one, sizeof one));
    unsigned broken = 1;
    e.broken = reinterpret_cast<unsigned*>(uploads.add(&broken, sizeof broken));
    e.k_stride = shape.d * static_cast<int64_t>(sizeof(float));
    e.v_stride = shape.d_v * static_cast<int64_t>(sizeof(float));
    e.layout = layout_of(shape);
    e.k_type = e.v_type = RowType::kF32;
    e.d_k = static_cast<int32_t>(shape.d);
    Status status = uploads.status();
    if (status.is_ok()) status = device.launch(Kernel::encode_pages, 1, 1, &e);
    status = finish(device, uploads, std::move(status), {{page, 0, shape.bytes}, {&broken, 4, sizeof broken}});
    *finite = broken == 0;
    return status;
}

Status score_codes(Device& device, const CodeShape& shape, const CodeQueries& queries, const std::byte* page,
                   float* logits) {
    if (Status status = check_size("key", shape.d); !status.is_ok() || queries.rows == 0) return status;
    // So many rows as a list may have, at a time.
    for (int64_t first = 0; first < queries.rows; first += kMostSparseRows) {
        const int64_t rows = std::min<int64_t>(kMostSparseRows, queries.rows - first);
        const auto numbers = static_cast<size_t>(rows) * sizeof(float);
        const auto elements = static_cast<size_t>(rows * shape.d);
        Uploads uploads(device);
        const auto put = [&](const void* from, size_t bytes) {
            return reinterpret_cast<void*>(uploads.add(from, bytes));
        };
        SparseArguments s{};
        s.logits = static_cast<float*>(put(nullptr, numbers * kPageKeys));
        FarPage one{};
        one.codes = static_cast<unsigned char*>(put(page, shape.bytes));
        s.pages = static_cast<const FarPage*>(put(&one, sizeof one));
        const FarList list{0, 1, 0, 0, 0};
        s.lists = static_cast<const FarList*>(put(&list, sizeof list));
        s.layout = layout_of(shape);
        s.exact = static_cast<const float*>(put(queries.exact + first * shape.d, elements * sizeof(float)));
        s.codes = static_cast<const int8_t*>(put(queries.codes + first * shape.d, elements));
        s.scale = static_cast<const float*>(put(queries.scale + first, numbers));
        s.offset = static_cast<const float*>(put(queries.offset + first, numbers));
        s.squares = s.scale;  // not used here
        const std::vector<float> nothing(static_cast<size_t>(rows), -std::numeric_limits<float>::infinity());
        s.near_lse = uploads.add(nothing);
        s.sums = static_cast<Softmax*>(put(nullptr, static_cast<size_t>(rows) * sizeof(Softmax)));
        s.bounds = static_cast<float*>(put(nullptr, sizeof(float)));
        s.levels = static_cast<float*>(put(nullptr, sizeof(float)));
        s.whole = static_cast<float*>(put(nullptr, numbers));
        const unsigned zero = 0;
        s.attention.tickets = static_cast<unsigned*>(put(&zero, sizeof zero));
        s.attention.splits = s.attention.tiles = s.attention.n_tokens = s.attention.tile_tokens = 1;
        s.attention.n_stream = s.attention.n_head_kv = 1;
        s.attention.n_head = static_cast<int32_t>(rows);
        s.page_stride = 1;
        Status status = uploads.status();
        if (status.is_ok()) {
            status = device.launch(Kernel::score_pages, 1, 1, &s,
                                   sparse_shared(static_cast<int>(rows), static_cast<int>(shape.d)));
        }
        status = finish(device, uploads, std::move(status), {{logits + first * kCodeKeys, 0, numbers * kPageKeys}});
        if (!status.is_ok()) return status;
    }
    return Status::ok();
}

}  // namespace atlas::kernels::cuda
