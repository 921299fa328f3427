#include "kernels/cuda/sparse.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <utility>

#include "kernels/cuda/codes.h"

namespace atlas::kernels::cuda {
namespace {

/** Blocks for each multiprocessor, and the pages below which one more block costs more than it saves. */
constexpr int64_t kBlocksPerMultiprocessor = 4;
constexpr int64_t kPagesPerSplit = 2 * kSparseWarps;

int64_t parts(int64_t whole, int64_t part) { return (whole + part - 1) / part; }

AttentionArgs shape_of(const AttentionArguments& a) {
    AttentionArgs shape;
    shape.k_type = data_type_of(a.k_type);
    shape.v_type = data_type_of(a.v_type);
    shape.d_k = a.d_k;
    shape.d_v = a.d_v;
    shape.n_head = a.n_head;
    shape.n_head_kv = a.n_head_kv;
    return shape;
}

Status check(const SparseCall& call) {
    const AttentionArguments& a = call.near;
    const auto bad = [](const std::string& what) { return Status::unsupported("sparse attention on CUDA: " + what); };
    if (Status status = cuda::check_attention(shape_of(a)); !status.is_ok()) return status;
    if (const int rows = a.tile_tokens * (a.n_head / a.n_head_kv); rows > kMostSparseRows) {
        return bad(std::to_string(rows) + " rows of a list: allowed are " + std::to_string(kMostSparseRows));
    }
    if (a.slopes) return bad("ALiBi");
    if (call.budget.least < 0 || call.budget.most < call.budget.least) {
        return Status::invalid_argument("sparse attention on CUDA: " + std::to_string(call.budget.least) + " to " +
                                        std::to_string(call.budget.most) + " keys");
    }
    return Status::ok();
}

}  // namespace

Status SparseAttention::grow(Buffer* buffer, size_t bytes) {
    if (buffer->bytes() >= bytes) return Status::ok();
    // What is under way may use it.
    if (Status status = device_.wait(); !status.is_ok()) return status;
    *buffer = Buffer();
    return device_.allocate(bytes, buffer);
}

Status SparseAttention::reserve(const SparseCall& call, const AttentionPlan& near, const AttentionPlan& selected) {
    SparseArguments& s = arguments_;
    const AttentionArguments& a = call.near;
    const auto lists = static_cast<size_t>(a.n_stream) * static_cast<size_t>(a.n_head_kv * a.tiles);
    const auto rows = static_cast<size_t>(a.n_stream) * static_cast<size_t>(a.n_tokens * a.n_head);
    const auto list_rows = static_cast<size_t>(a.tile_tokens * (a.n_head / a.n_head_kv));
    const size_t pages = lists * static_cast<size_t>(s.page_stride);
    const auto d = static_cast<size_t>(s.layout.d);
    const auto d_v = static_cast<size_t>(a.d_v);
    const size_t tickets =
        lists * static_cast<size_t>(std::max({1, near.row_blocks, selected.row_blocks})) * sizeof(unsigned);
    const bool new_tickets = tickets_.bytes() < tickets;
    const auto splits = static_cast<size_t>(std::max(near.splits, selected.splits));
    const std::pair<Buffer*, size_t> sizes[] = {
        {&exact_, rows * d * sizeof(float)},
        {&codes_, rows * d},
        {&scale_, rows * sizeof(float)},
        {&offset_, rows * sizeof(float)},
        {&squares_, rows * sizeof(float)},
        {&near_lse_, rows * sizeof(float)},
        {&sums_, pages * list_rows * sizeof(Softmax)},
        {&bounds_, pages * sizeof(float)},
        {&levels_, lists * sizeof(float)},
        {&whole_, rows * sizeof(float)},
        {&shares_, pages * kPageKeys * sizeof(float)},
        {&cells_, pages * sizeof(uint64_t)},
        {&selected_, pages * sizeof(Page)},
        {&lists_, lists * sizeof(PageList)},
        {&selected_out_, rows * d_v * sizeof(float)},
        {&selected_lse_, rows * sizeof(float)},
        {&partial_, rows * splits * (d_v + 2) * sizeof(float)},
        {&rest_, rows * static_cast<size_t>(s.attention.splits) * (d_v + 1) * sizeof(float)},
        {&tickets_, tickets},
    };
    for (const auto& [buffer, bytes] : sizes) {
        if (Status status = grow(buffer, bytes); !status.is_ok()) return status;
    }
    s.exact = exact_.as<float>();
    s.codes = codes_.as<int8_t>();
    s.scale = scale_.as<float>();
    s.offset = offset_.as<float>();
    s.squares = squares_.as<float>();
    s.near_lse = near_lse_.as<float>();
    s.sums = sums_.as<Softmax>();
    s.bounds = bounds_.as<float>();
    s.levels = levels_.as<float>();
    s.whole = whole_.as<float>();
    s.shares = shares_.as<float>();
    s.cells = cells_.as<uint64_t>();
    s.selected = selected_.as<Page>();
    s.selected_lists = lists_.as<PageList>();
    s.selected_out = selected_out_.as<float>();
    s.selected_lse = selected_lse_.as<float>();
    s.partial = rest_.as<float>();
    s.attention.tickets = tickets_.as<unsigned>();
    if (!new_tickets) return Status::ok();
    Status status = device_.clear(tickets_);
    if (!status.is_ok()) tickets_ = Buffer();  // the next call must not take them for cleared
    return status;
}

Status SparseAttention::attend(const AttentionPlan& plan, AttentionArguments a) {
    a.splits = plan.splits;
    a.partial = partial_.as<float>();
    a.tickets = tickets_.as<unsigned>();
    return device_.launch(plan.kernel, static_cast<uint32_t>(a.n_stream * a.n_head_kv * a.tiles * plan.row_blocks),
                          static_cast<uint32_t>(plan.splits), &a);
}

Status SparseAttention::run(const SparseCall& call, const SparseTuning& tuning) {
    if (Status status = check(call); !status.is_ok()) return status;
    const AttentionArguments& a = call.near;
    const AttentionArgs shape = shape_of(a);
    const int64_t lists = int64_t{a.n_stream} * a.n_head_kv * a.tiles;
    const int list_rows = a.tile_tokens * (a.n_head / a.n_head_kv);
    const auto plan_of = [&](int64_t pages) {
        return plan_attention(shape, lists, list_rows, pages, device_.multiprocessors(), {.splits = tuning.splits});
    };
    const AttentionPlan near_plan = plan_of(call.near_pages);
    // A selected key may be the only one of its page.
    const AttentionPlan selected_plan = plan_of(std::min(call.far_pages, call.budget.most));

    SparseArguments& s = arguments_;
    s = {};
    s.attention = a;
    s.attention.splits = static_cast<int32_t>(
        std::clamp<int64_t>(parts(kBlocksPerMultiprocessor * device_.multiprocessors(), std::max<int64_t>(1, lists)), 1,
                            std::max<int64_t>(1, parts(call.far_pages, kPagesPerSplit))));
    if (tuning.splits > 0) s.attention.splits = tuning.splits;
    s.pages = call.pages;
    s.lists = call.lists;
    s.layout = layout_of(CodeShape(a.d_k, a.d_v));
    s.page_stride = static_cast<int32_t>(std::max<int64_t>(1, call.far_pages));
    s.least = static_cast<int32_t>(std::min<int64_t>(call.budget.least, INT32_MAX));
    s.most = static_cast<int32_t>(std::min<int64_t>(call.budget.most, INT32_MAX));
    s.share = call.budget.share;
    s.with_rest = call.budget.rest ? 1 : 0;
    s.logits = call.logits;
    if (Status status = reserve(call, near_plan, selected_plan); !status.is_ok()) return status;

    PrepareArguments p{};
    p.q = a.q;
    p.token_stride = a.q_token_stride;
    p.head_stride = a.q_head_stride;
    p.stream_stride = a.q_stream_stride;
    p.signs = call.signs;
    p.exact = exact_.as<float>();
    p.codes = codes_.as<int8_t>();
    p.scale = scale_.as<float>();
    p.offset = offset_.as<float>();
    p.squares = squares_.as<float>();
    p.rows = a.n_stream * a.n_tokens * a.n_head;
    p.n_tokens = a.n_tokens;
    p.n_head = a.n_head;
    p.d_k = a.d_k;
    p.d = s.layout.d;
    p.largest_code = largest_query_code(p.d);
    p.factor = a.scale * std::numbers::log2e_v<float>;

    AttentionArguments near = a;
    near.lse = near_lse_.as<float>();
    AttentionArguments selected = a;
    selected.pages = s.selected;
    selected.lists = s.selected_lists;
    selected.mask = nullptr;   // far pages are seen whole
    selected.sinks = nullptr;  // counted with the near keys
    selected.out = selected_out_.as<float>();
    selected.out_head_stride = a.d_v;
    selected.out_token_stride = int64_t{a.d_v} * a.n_head;
    selected.out_stream_stride = selected.out_token_stride * a.n_tokens;
    selected.lse = selected_lse_.as<float>();

    const auto grid = static_cast<uint32_t>(lists);
    const auto splits = static_cast<uint32_t>(s.attention.splits);
    const size_t shared = sparse_shared(list_rows, s.layout.d);
    Status status = attend(near_plan, near);
    if (status.is_ok()) {
        status = device_.launch(Kernel::prepare_rows, static_cast<uint32_t>(parts(p.rows, kSparseWarps)), 1, &p);
    }
    if (status.is_ok()) status = device_.launch(Kernel::score_pages, grid, splits, &s, shared);
    if (status.is_ok()) status = device_.launch(Kernel::share_keys, grid, splits, &s, shared);
    if (status.is_ok()) status = attend(selected_plan, selected);
    if (status.is_ok()) {
        status = device_.launch(Kernel::attend_rest, grid, splits, &s, rest_shared(list_rows, s.layout.d, a.d_v));
    }
    return status;
}

Status encode_pages(Device& device, const EncodeArguments& arguments, int64_t n_pages, int64_t n_heads) {
    return device.launch(Kernel::encode_pages, static_cast<uint32_t>(n_pages), static_cast<uint32_t>(n_heads),
                         &arguments);
}

}  // namespace atlas::kernels::cuda
