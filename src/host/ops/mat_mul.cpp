#include "host/ops/mat_mul.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <string_view>

#include "base/parallel.h"
#include "host/buffers/owner_buffer.h"
#include "host/graph/op_kind.h"
#include "host/ops/streamed_product.h"
#include "host/ops/weight_format.h"

namespace atlas::host {
namespace {

constexpr int64_t kManyColumns = 8;

/** The host's number of a type is found by its name, which GGUF fixes. */
std::optional<kernels::WeightType> weight_type(ggml_type type) {
    for (int i = 0; i < kernels::kWeightTypeCount; ++i) {
        const auto known = static_cast<kernels::WeightType>(i);
        if (std::string_view(kernels::weight_type_info(known).name) == ggml_type_name(type)) return known;
    }
    return std::nullopt;
}

int64_t columns_of(const ggml_tensor* columns) { return columns->ne[1] * columns->ne[2] * columns->ne[3]; }

/**
 * A few shares of rows a thread, in whole panels: cores may differ in speed, and one may be taken away. Short ones of a few columns would end
 * before what their thread has fetched ahead.
 */
struct Shares {
    int64_t rows, panels, count;

    Shares(const kernels::WeightMatrix& weights, int64_t columns, int n_threads)
        : rows(weights.rows), panels((rows + kernels::kWeightPanel - 1) / kernels::kWeightPanel) {
        const auto threads = static_cast<int64_t>(std::max(n_threads, 1));
        const auto bytes = static_cast<int64_t>(weights.row_stride) * rows * columns;
        // Kernels for many columns lay them out anew in every share.
        const int64_t most = columns > kManyColumns ? 2 * threads : 8 * threads;
        count = std::min(panels, std::clamp(bytes / MatMul::kLeastShare, threads, most));
    }
    int64_t begin(int64_t share) const { return std::min(rows, panels * share / count * kernels::kWeightPanel); }
};

}  // namespace

std::optional<kernels::WeightType> weight_type_of(const ggml_tensor* tensor) {
    static const auto by_number = [] {
        std::array<std::optional<kernels::WeightType>, GGML_TYPE_COUNT> types;
        for (int i = 0; i < GGML_TYPE_COUNT; ++i)
            if (ggml_type_name(static_cast<ggml_type>(i)))
                types[static_cast<size_t>(i)] = weight_type(static_cast<ggml_type>(i));
        return types;
    }();
    const auto number = static_cast<size_t>(tensor->type);
    return number < by_number.size() ? by_number[number] : std::nullopt;
}

bool is_weight(const ggml_tensor* operand) {
    const ggml_tensor* root = root_of(operand);
    if (root->op != GGML_OP_NONE || std::string_view(root->name).starts_with("cache_")) return false;
    return root->buffer && (is_owner_buffer(root->buffer) || ggml_backend_buffer_is_host(root->buffer));
}

Status check_mat_mul(const ggml_tensor* node) {
    const ggml_tensor* weights = node->src[0];
    const ggml_tensor* columns = node->src[1];
    const auto type = weight_type_of(weights);
    if (!type) return Status::unsupported(std::string("weights of ") + ggml_type_name(weights->type));
    const kernels::WeightTypeInfo& info = kernels::weight_type_info(*type);
    if (weights->ne[2] != 1 || weights->ne[3] != 1) return Status::unsupported("several matrices of weights");
    if (weights->ne[0] % info.block_elements != 0 || static_cast<size_t>(info.block_bytes) != weights->nb[0] ||
        weights->nb[1] < kernels::weight_row_bytes(*type, weights->ne[0]))
        return Status::unsupported("weights whose rows do not lie together");
    if (columns->type != GGML_TYPE_F32 || node->type != GGML_TYPE_F32 || !ggml_is_contiguous(columns) ||
        !ggml_is_contiguous(node))
        return Status::unsupported("columns that are not f32, one after the other");
    return Status::ok();
}

Status MatMul::begin_graph(const WeightSource& source, std::span<const ggml_tensor* const> products,
                           const InputUse& inputs, int n_threads) {
    weights::Streamer* const streamer = source.streamer;
    columns_ = nullptr;
    sparse_products_ = rounded_products_ = streamed_products_ = 0;
    sparse_bytes_ = {};
    inputs_ = inputs;
    if (streamer) inputs_.left_out = 0.0;
    formats_ = source.formats;
    if (formats_) round_weights(products, n_threads);
    if (!streamer) return Status::ok();
    uses_.clear();
    int64_t tokens = 0;
    int32_t choices = 0;
    const ggml_tensor* choice = nullptr;
    for (const ggml_tensor* node : products) {
        const ggml_tensor* weights = node->src[0];
        if (op_kind(node->op) == OpKind::kMatMulId) {
            if (node->src[2] != choice) ++choices;
            choice = node->src[2];
            const int64_t at_once = tokens_at_once(node);
            uses_.push_back({.data = static_cast<const std::byte*>(weights->data),
                             .rows = weights->ne[1],
                             .row_bytes = weights->nb[1],
                             .times = (node->src[1]->ne[2] + at_once - 1) / at_once,
                             .experts = weights->ne[2],
                             .expert_stride = weights->nb[2],
                             .chosen = choice->ne[0],
                             .choice = choices});
            continue;
        }
        const int64_t n = columns_of(node->src[1]);
        uses_.push_back({static_cast<const std::byte*>(weights->data), weights->ne[1], weights->nb[1],
                         (n + kMostColumns - 1) / kMostColumns});
        tokens = std::max(tokens, n);
    }
    return streamer->begin(uses_, tokens, &pass_);
}

void MatMul::round_weights(std::span<const ggml_tensor* const> products, int n_threads) {
    using Part = weights::FormatStore::Part;
    for (const Part part : {Part::kLayers, Part::kHead}) {
        if (part == Part::kHead && !formats_->rounds_head()) continue;
        to_round_.clear();
        for (const ggml_tensor* node : products) {
            if (part_to_round(node->src[0]) == part) to_round_.push_back(matrix_of(node->src[0], nullptr));
        }
        formats_->round(part, to_round_, decode_weights, n_threads);
    }
    formats_->keep();
    formats_->say_if_nothing_is_rounded(products.size());
}

Status MatMul::run(const ggml_tensor* node, const ggml_tensor* next, int n_threads) {
    const ggml_tensor* columns = node->src[1];
    const int64_t n = columns_of(columns);
    if (inputs_.magnitudes && SparseColumns::has_type(node) && side_car::has_sparse_inputs(node->src[0]->name))
        inputs_.magnitudes->add(node->src[0]->name, node->src[0]->ne[0], node->src[0]->ne[1],
                                static_cast<const float*>(columns->data), n);
    was_sparse_ = inputs_.left_out > 0.0 && sparse_.run(node, inputs_.left_out, inputs_.thresholds, n_threads, &sparse_bytes_);
    if (was_sparse_) {
        ++sparse_products_;
        return Status::ok();
    }
    for (int64_t first = 0; first < n; first += kMostColumns)
        multiply(node, next, first, std::min(kMostColumns, n - first), n_threads);
    // Of more columns than are quantised at once only the last are there.
    if (n > kMostColumns) columns_ = nullptr;
    return pass_.status();
}

void MatMul::multiply(const ggml_tensor* node, const ggml_tensor* next, int64_t first, int64_t n, int n_threads) {
    const ggml_tensor* columns = node->src[1];
    const kernels::WeightMatrix weights = matrix_of(node->src[0], formats_);
    const kernels::ActivationType activations = kernels::weight_type_info(weights.type).activations;
    const int64_t k = weights.cols;
    const int64_t rows = weights.rows;
    std::byte* quantised = nullptr;
    const bool known = activations_of(columns, activations, k, n, first == 0, &quantised);
    const kernels::ActivationArgs args{activations, k, static_cast<const float*>(columns->data) + first * k,
                                       static_cast<size_t>(k) * sizeof(float), quantised};
    const kernels::WeightProduct product{.weights = weights,
                                         .activations = quantised,
                                         .n = n,
                                         .out = static_cast<float*>(node->data) + first * rows,
                                         .out_stride = static_cast<size_t>(rows)};
    if (first == 0 && weights.data != node->src[0]->data) ++rounded_products_;
    const Shares shares(weights, n, n_threads);
    kernels::WeightMatrix of_next{};
    if (next) {
        of_next = matrix_of(next->src[0], formats_);
        of_next.rows = next->src[0]->ne[1];
    }
    // What the thread of a share does next is most likely the share so many threads further on, or one of the next product's.
    const auto multiply_share = [&](int64_t i) {
        kernels::WeightProduct share = product;
        const int64_t later = i + std::max(n_threads, 1);
        if (later < shares.count) {
            share.next = weights.data + static_cast<size_t>(shares.begin(later)) * weights.row_stride;
        } else if (next) {
            const Shares next_shares(of_next, n, n_threads);
            const int64_t first_row = next_shares.begin(std::min(later - shares.count, next_shares.count - 1));
            share.next = of_next.data + static_cast<size_t>(first_row) * of_next.row_stride;
        }
        kernels::multiply_weights(share, shares.begin(i), shares.begin(i + 1));
    };
    const auto multiply_all = [&](const auto& products) {
        // One column is sooner quantised than threads have waited for it.
        if (!known && n == 1) kernels::quantise_activations(args, 0, 1);
        if (known || n == 1) {
            parallel_loops(n_threads, products);
        } else {
            const auto quantise = [&](int64_t i) { kernels::quantise_activations(args, i, i + 1); };
            parallel_loops(n_threads, Loop{n, Schedule::kStatic, quantise}, products);
        }
    };
    if (weights::StreamedWeight* streamed = pass_.next(product.weights.data)) {
        if (first == 0) ++streamed_products_;
        const StreamedProduct from_disk(pass_, *streamed, product, shares.count);
        multiply_all(Loop{from_disk.shares(), Schedule::kDynamic,
                          [&](int64_t i) { from_disk.multiply(i, i + std::max(n_threads, 1)); }});
    } else {
        multiply_all(Loop{shares.count, Schedule::kDynamic, multiply_share});
    }
}

bool MatMul::activations_of(const ggml_tensor* columns, kernels::ActivationType type, int64_t k, int64_t n, bool first,
                            std::byte** quantised) {
    const bool known = first && columns_ == columns && type_ == type;
    if (!known) {
        columns_ = nullptr;
        memory_.resize(kernels::activation_bytes(type, k, n) + 64);
    }
    *quantised = reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(memory_.data()) + 63) / 64 * 64);
    // Whatever fails from here on fails the graph, and the next one begins anew.
    columns_ = columns;
    type_ = type;
    return known;
}

}  // namespace atlas::host
