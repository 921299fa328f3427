#include "kernels/cuda/plan.h"

#include <algorithm>
#include <string>
#include <tuple>
#include <utility>

namespace atlas::kernels::cuda {
namespace {

/** Rows that stream past keys; from more on, products of matrices are cheaper than reading the keys again. */
constexpr int64_t kStreamedRows = 4;
/** Blocks for each multiprocessor: what fits side by side by registers and shared memory, about. */
constexpr int64_t kBlocksPerMultiprocessor = 4;
/** Pages below which a split costs more to merge than it saves: one for each warp. */
constexpr int64_t kPagesPerSplit = kDecodeWarps;

int64_t parts(int64_t whole, int64_t part) { return (whole + part - 1) / part; }

struct Choice {
    int rows;
    Kernel up_to_64, up_to_128, up_to_256;
};
constexpr Choice kChoices[] = {
    {1, Kernel::decode_1x64, Kernel::decode_1x128, Kernel::decode_1x256},
    {4, Kernel::decode_4x64, Kernel::decode_4x128, Kernel::decode_4x256},
    {16, Kernel::tiles_16x64, Kernel::tiles_16x128, Kernel::tiles_16x256},
    {64, Kernel::tiles_64x64, Kernel::tiles_64x128, Kernel::tiles_32x256},
};

}  // namespace

bool row_type_of(DataType type, RowType* row_type) {
    switch (type) {
        case DataType::kF16:
            *row_type = RowType::kF16;
            return true;
        case DataType::kBF16:
            *row_type = RowType::kBF16;
            return true;
        case DataType::kQ8_0:
            *row_type = RowType::kQ8_0;
            return true;
        case DataType::kQ4_0:
            *row_type = RowType::kQ4_0;
            return true;
        default:
            return false;
    }
}

DataType data_type_of(RowType type) {
    switch (type) {
        case RowType::kF16:
            return DataType::kF16;
        case RowType::kBF16:
            return DataType::kBF16;
        case RowType::kQ8_0:
            return DataType::kQ8_0;
        case RowType::kQ4_0:
            return DataType::kQ4_0;
        case RowType::kF32:
            return DataType::kF32;
    }
    return DataType::kOther;
}

Status check_attention(const AttentionArgs& args) {
    const auto bad = [](const std::string& what) { return Status::unsupported("attention on CUDA: " + what); };
    if (args.n_head_kv < 1 || args.n_head < 1 || args.n_head % args.n_head_kv != 0) {
        return bad(std::to_string(args.n_head) + " query heads are no multiple of " + std::to_string(args.n_head_kv) +
                   " KV heads");
    }
    for (const auto& [type, d, name] : {std::tuple{args.k_type, args.d_k, "key"}, {args.v_type, args.d_v, "value"}}) {
        RowType row_type;
        if (!row_type_of(type, &row_type)) {
            const char* type_name = type == DataType::kOther ? "other" : data_type_info(type).name;
            return bad(std::string(name) + "s in " + type_name + ": allowed are f16, bf16, q8_0 and q4_0");
        }
        const int64_t multiple = std::max(8, data_type_info(type).block_elements);
        if (d < multiple || d > kMaxHead || d % multiple != 0) {
            return bad(std::string(name) + " size " + std::to_string(d) + " with " + data_type_info(type).name +
                       ": allowed are multiples of " + std::to_string(multiple) + " up to " + std::to_string(kMaxHead));
        }
    }
    return Status::ok();
}

AttentionPlan plan_attention(const AttentionArgs& args, int64_t lists, int64_t list_rows, int64_t list_pages,
                             int multiprocessors, const AttentionTuning& tuning) {
    const bool tensor_cores = args.k_type != DataType::kBF16 && args.v_type != DataType::kBF16;
    int64_t rows = list_rows == 1 ? 1 : list_rows <= kStreamedRows || !tensor_cores ? 4 : list_rows <= 16 ? 16 : 64;
    if (tuning.rows > 0 && (tensor_cores || tuning.rows <= kStreamedRows)) rows = tuning.rows;
    const Choice& choice =
        *std::find_if(std::begin(kChoices), std::end(kChoices) - 1, [&](const Choice& c) { return c.rows == rows; });
    const int64_t d = std::max(args.d_k, args.d_v);
    AttentionPlan plan;
    plan.kernel = d <= 64 ? choice.up_to_64 : d <= 128 ? choice.up_to_128 : choice.up_to_256;
    plan.rows = plan.kernel == Kernel::tiles_32x256 ? 32 : choice.rows;
    plan.row_blocks = static_cast<int>(parts(list_rows, plan.rows));
    const int64_t blocks = std::max<int64_t>(1, lists * plan.row_blocks);
    const int64_t useful = std::max<int64_t>(1, parts(list_pages, kPagesPerSplit));
    const int64_t wanted = parts(kBlocksPerMultiprocessor * multiprocessors, blocks);
    plan.splits = static_cast<int>(std::clamp<int64_t>(wanted, 1, useful));
    if (tuning.splits > 0) plan.splits = tuning.splits;
    return plan;
}

}  // namespace atlas::kernels::cuda
