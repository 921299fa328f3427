#include <algorithm>
#include <string>

#include "base/parallel.h"
#include "host/ops/mat_mul.h"
#include "host/ops/weight_format.h"

namespace atlas::host {
namespace {

int32_t expert_of(const ggml_tensor* ids, int64_t i, int64_t token) {
    return *reinterpret_cast<const int32_t*>(static_cast<const std::byte*>(ids->data) +
                                             static_cast<size_t>(token) * ids->nb[1] +
                                             static_cast<size_t>(i) * ids->nb[0]);
}

}  // namespace

Status check_mat_mul_id(const ggml_tensor* node) {
    const ggml_tensor* weights = node->src[0];
    const ggml_tensor* columns = node->src[1];
    const ggml_tensor* ids = node->src[2];
    const auto type = weight_type_of(weights);
    if (!type) return Status::unsupported(std::string("experts of ") + ggml_type_name(weights->type));
    const kernels::WeightTypeInfo& info = kernels::weight_type_info(*type);
    if (weights->ne[3] != 1 || weights->ne[0] % info.block_elements != 0 ||
        static_cast<size_t>(info.block_bytes) != weights->nb[0] ||
        weights->nb[1] < kernels::weight_row_bytes(*type, weights->ne[0]))
        return Status::unsupported("experts whose rows do not lie together");
    if (columns->type != GGML_TYPE_F32 || node->type != GGML_TYPE_F32 || !ggml_is_contiguous(columns) ||
        !ggml_is_contiguous(node) || columns->ne[3] != 1)
        return Status::unsupported("columns that are not f32, one after the other");
    if (ids->type != GGML_TYPE_I32 || ids->ne[2] != 1 || ids->ne[3] != 1 || ids->ne[1] != columns->ne[2] ||
        ids->nb[0] % sizeof(int32_t) != 0 || ids->nb[1] % sizeof(int32_t) != 0)
        return Status::unsupported("choices of experts that are not i32, per token");
    return Status::ok();
}

int64_t MatMul::tokens_at_once(const ggml_tensor* node) {
    return std::max<int64_t>(kMostColumns / std::max<int64_t>(node->src[1]->ne[1], 1), 1);
}

Status MatMul::run_chosen(const ggml_tensor* node, int n_threads) {
    const int64_t n_tokens = node->src[1]->ne[2];
    const int64_t at_once = tokens_at_once(node);
    for (int64_t token = 0; token < n_tokens; token += at_once) {
        const int64_t count = std::min(at_once, n_tokens - token);
        if (Status status = sort_by_expert(node, token, count); !status.is_ok()) return status;
        multiply_chosen(node, token, count, n_threads);
    }
    if (n_tokens > at_once) columns_ = nullptr;
    return pass_.status();
}

/** pairs_: columns of the tokens by expert; first_of_[e] is the first of expert e. */
Status MatMul::sort_by_expert(const ggml_tensor* node, int64_t token, int64_t count) {
    const ggml_tensor* ids = node->src[2];
    const auto experts = static_cast<size_t>(node->src[0]->ne[2]);
    const int64_t per_token = node->src[1]->ne[1];
    const int64_t chosen = ids->ne[0];
    first_of_.assign(experts + 1, 0);
    for (int64_t t = 0; t < count; ++t) {
        for (int64_t i = 0; i < chosen; ++i) {
            const int32_t expert = expert_of(ids, i, token + t);
            if (expert < 0 || static_cast<size_t>(expert) >= experts)
                return Status::invalid_argument("expert " + std::to_string(expert) + " of token " +
                                                std::to_string(token + t) + ": there are " + std::to_string(experts));
            ++first_of_[static_cast<size_t>(expert) + 1];
        }
    }
    for (size_t e = 0; e < experts; ++e) first_of_[e + 1] += first_of_[e];
    pairs_.resize(static_cast<size_t>(count * chosen));
    std::vector<size_t>& next = next_of_;
    next.assign(first_of_.begin(), first_of_.end());
    for (int64_t t = 0; t < count; ++t) {
        for (int64_t i = 0; i < chosen; ++i) {
            const auto expert = static_cast<size_t>(expert_of(ids, i, token + t));
            pairs_[next[expert]++] = {static_cast<int32_t>(t * per_token + i % per_token),
                                      static_cast<int32_t>(t * chosen + i)};
        }
    }
    return Status::ok();
}

void MatMul::multiply_chosen(const ggml_tensor* node, int64_t token, int64_t count, int n_threads) {
    const ggml_tensor* weights = node->src[0];
    const ggml_tensor* columns = node->src[1];
    const kernels::WeightMatrix all = matrix_of(weights, formats_);
    // Of rounded ones the experts follow each other; the model's own may lie apart.
    const size_t expert_stride =
        all.data == weights->data ? weights->nb[2] : all.row_stride * static_cast<size_t>(weights->ne[1]);
    const kernels::ActivationType activations = kernels::weight_type_info(all.type).activations;
    const int64_t k = weights->ne[0];
    const int64_t rows = weights->ne[1];
    const int64_t n = count * columns->ne[1];
    std::byte* quantised = nullptr;
    const bool known = activations_of(columns, activations, k, n, token == 0, &quantised);
    const kernels::ActivationArgs args{activations, k,
                                       static_cast<const float*>(columns->data) + token * columns->ne[1] * k,
                                       static_cast<size_t>(k) * sizeof(float), quantised};

    const auto threads = static_cast<int64_t>(std::max(n_threads, 1));
    weights::ExpertMatrix* streamed = pass_.next_experts(static_cast<const std::byte*>(weights->data));
    if (token == 0 && all.data != weights->data) ++rounded_products_;
    if (streamed) {
        if (token == 0) ++streamed_products_;
        share_out(weights, threads, *streamed);
    } else {
        share_out(weights, all.row_stride, threads);
    }
    const auto multiply_share = [&](int64_t i) {
        const Share& share = shares_[static_cast<size_t>(i)];
        const std::byte* data = share.chunk ? pass_.wait(*share.chunk) : all.data + share.expert * expert_stride;
        if (!data) return;
        const int64_t first_row = share.chunk ? share.chunk->first_row : 0;
        kernels::WeightProduct product{
            .weights = {all.type, data, share.chunk ? share.chunk->rows : rows, k, all.row_stride},
            .activations = quantised,
            .n = static_cast<int64_t>(first_of_[share.expert + 1] - first_of_[share.expert]),
            .out = static_cast<float*>(node->data) + token * node->ne[1] * rows + first_row,
            .out_stride = static_cast<size_t>(rows),
            .columns = pairs_.data() + first_of_[share.expert]};
        if (const auto later = static_cast<size_t>(i + threads); later < shares_.size()) {
            const Share& next = shares_[later];
            const std::byte* there =
                next.chunk ? weights::Pass::peek(*next.chunk) : all.data + next.expert * expert_stride;
            product.next = there ? there + static_cast<size_t>(next.begin) * all.row_stride : nullptr;
        }
        kernels::multiply_weights(product, share.begin, share.end);
        if (share.chunk) pass_.done(*streamed, streamed->parts[share.expert], share.end - share.begin);
    };
    const Loop products{static_cast<int64_t>(shares_.size()), Schedule::kDynamic, multiply_share};
    const auto quantise = [&](int64_t i) { kernels::quantise_activations(args, i, i + 1); };
    if (!known && n == 1) kernels::quantise_activations(args, 0, 1);
    if (known || n == 1) {
        parallel_loops(n_threads, products);
    } else {
        parallel_loops(n_threads, Loop{n, Schedule::kStatic, quantise}, products);
    }
    if (streamed) weights::Pass::used(*streamed);
}

/** shares_: an expert's rows in whole panels, in as many shares as there are threads where they are worth it. */
void MatMul::share_out(const ggml_tensor* weights, size_t row_bytes, int64_t threads) {
    shares_.clear();
    const int64_t rows = weights->ne[1];
    const int64_t panels = (rows + kernels::kWeightPanel - 1) / kernels::kWeightPanel;
    for (size_t e = 0; e + 1 < first_of_.size(); ++e) {
        const auto columns = static_cast<int64_t>(first_of_[e + 1] - first_of_[e]);
        if (columns == 0) continue;
        const auto work = static_cast<int64_t>(row_bytes) * rows * columns;
        const int64_t parts = std::min(panels, std::clamp<int64_t>(work / kLeastShare, 1, threads));
        for (int64_t p = 0; p < parts; ++p)
            shares_.push_back({e, panels * p / parts * kernels::kWeightPanel,
                               std::min(rows, panels * (p + 1) / parts * kernels::kWeightPanel)});
    }
}

/** The same of chunks that may have to be read, those first that are there. Shares begin at whole panels of the expert, so that results do not change. */
void MatMul::share_out(const ggml_tensor* weights, int64_t threads, weights::ExpertMatrix& streamed) {
    chosen_.clear();
    columns_of_each_.clear();
    for (size_t e = 0; e + 1 < first_of_.size(); ++e) {
        if (first_of_[e + 1] == first_of_[e]) continue;
        chosen_.push_back(static_cast<int32_t>(e));
        columns_of_each_.push_back(static_cast<int64_t>(first_of_[e + 1] - first_of_[e]));
    }
    pass_.want(streamed, chosen_, columns_of_each_);
    shares_.clear();
    for (const int32_t number : streamed.order) {
        const auto e = static_cast<size_t>(number);
        const auto columns = static_cast<int64_t>(first_of_[e + 1] - first_of_[e]);
        for (weights::Chunk& chunk : streamed.parts[e].chunks) {
            const int64_t panels = (chunk.rows + kernels::kWeightPanel - 1) / kernels::kWeightPanel;
            const auto work = static_cast<int64_t>(weights->nb[1]) * chunk.rows * columns;
            const int64_t parts = std::min(panels, std::clamp<int64_t>(work / kLeastShare, 1, threads));
            for (int64_t p = 0; p < parts; ++p)
                shares_.push_back({e, panels * p / parts * kernels::kWeightPanel,
                                   std::min(chunk.rows, panels * (p + 1) / parts * kernels::kWeightPanel), &chunk});
        }
    }
}

}  // namespace atlas::host
