// The graph walk through the host's public interface: what of a graph is run, in which order, and what of it may be shared.

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "atlas_device.h"

namespace atlas::host::test {
namespace {

constexpr int64_t kHead = 64, kHeads = 2, kCells = 512, kTokens = 2;

using Graph = AtlasDevice;

ggml_cgraph* graph_of(Bench& bench, const std::vector<ggml_tensor*>& results) {
    ggml_cgraph* graph = ggml_new_graph(bench.context());
    for (ggml_tensor* result : results) ggml_build_forward_expand(graph, result);
    return graph;
}

ggml_tensor* attention_of(Bench& bench, ggml_tensor* q, ggml_tensor* k, ggml_tensor* v, ggml_tensor* mask) {
    const auto heads = [&](ggml_tensor* cache) {
        return ggml_view_4d(bench.context(), cache, kHead, kCells, kHeads, 1, cache->nb[1],
                            ggml_row_size(cache->type, kHead), cache->nb[1] * kCells, 0);
    };
    return ggml_flash_attn_ext(bench.context(), q, heads(k), heads(v), mask, 0.125f, 0.0f, 0.0f);
}

/** Sees the cells from `begin` to `end`. */
std::vector<ggml_fp16_t> mask_of(int64_t begin, int64_t end) {
    std::vector<ggml_fp16_t> mask(kCells * kTokens);
    for (size_t i = 0; i < mask.size(); ++i) {
        const int64_t cell = static_cast<int64_t>(i) % kCells;
        mask[i] = ggml_fp32_to_fp16(cell >= begin && cell < end ? 0.0f : -INFINITY);
    }
    return mask;
}

/** Attention, then something writes other values over all of the mask or its later half, then attention again. */
std::vector<float> two_masks(Bench& bench, bool by_part) {
    ggml_context* context = bench.context();
    ggml_tensor* k = bench.tensor("cache_k_l0", GGML_TYPE_F16, {kHead * kHeads, kCells});
    ggml_tensor* v = bench.tensor("cache_v_l0", GGML_TYPE_F16, {kHead * kHeads, kCells});
    ggml_tensor* q = bench.tensor("q", GGML_TYPE_F32, {kHead, kTokens, kHeads});
    ggml_tensor* mask = bench.tensor("mask", GGML_TYPE_F16, {kCells, kTokens});
    ggml_tensor* other = bench.tensor("other", GGML_TYPE_F16, {kCells, kTokens});
    const auto part = [&](ggml_tensor* whole) {
        return by_part ? ggml_view_1d(context, whole, kCells, kCells * sizeof(ggml_fp16_t)) : whole;
    };
    ggml_tensor* first = attention_of(bench, q, k, v, mask);
    ggml_tensor* again = attention_of(bench, q, k, v, mask);
    ggml_tensor* written = ggml_cpy(context, part(other), part(mask));
    ggml_tensor* second = attention_of(bench, q, k, v, mask);
    EXPECT_NE(bench.allocate(), nullptr);
    Bench::set(k, noise(static_cast<size_t>(ggml_nelements(k)), 1));
    Bench::set(v, noise(static_cast<size_t>(ggml_nelements(v)), 2));
    Bench::set(q, noise(static_cast<size_t>(ggml_nelements(q)), 3));
    ggml_backend_tensor_set(mask, mask_of(0, 128).data(), 0, ggml_nbytes(mask));
    ggml_backend_tensor_set(other, mask_of(256, 500).data(), 0, ggml_nbytes(other));
    EXPECT_EQ(ggml_backend_graph_compute(bench.backend(), graph_of(bench, {first, again, written, second})),
              GGML_STATUS_SUCCESS);
    EXPECT_EQ(Bench::bytes(first), Bench::bytes(again));
    return Bench::floats(second);
}

TEST_F(Graph, AMaskThatANodeWritesIsReadAnew) {
    for (const bool by_part : {false, true}) {
        Bench ours(device_);
        Bench theirs(cpu_device());
        EXPECT_LT(nmse(two_masks(theirs, by_part), two_masks(ours, by_part)), 5e-4) << by_part;
    }
}

/** A graph with one node of each kind of step; `left_out` takes away the mark that it is to be computed. */
struct Steps {
    ggml_tensor* written;
    ggml_tensor* attended;
    ggml_tensor* decoded;
    ggml_tensor* doubled;
    ggml_tensor* shifted;
    ggml_tensor* keys;
};

Steps make_steps(Bench& bench) {
    ggml_context* context = bench.context();
    Steps steps{};
    ggml_tensor* cache = bench.tensor("cache_k_l0", GGML_TYPE_F16, {kHead * kHeads, kCells});
    ggml_tensor* rows = bench.tensor("rows", GGML_TYPE_F32, {kHead * kHeads, 1});
    ggml_tensor* where = bench.tensor("where", GGML_TYPE_I64, {1});
    ggml_tensor* q = bench.tensor("q", GGML_TYPE_F32, {kHead, kTokens, kHeads});
    steps.keys = bench.tensor("cache_k_l1", GGML_TYPE_Q8_0, {kHead * kHeads, kCells});
    ggml_tensor* by = bench.tensor("shift", GGML_TYPE_I32, {kCells});
    steps.written = ggml_set_rows(context, cache, rows, where);
    steps.attended = attention_of(bench, q, cache, cache, nullptr);
    steps.decoded = ggml_cast(context, cache, GGML_TYPE_F32);
    steps.doubled = ggml_scale(context, q, 2.0f);
    ggml_tensor* view = ggml_view_3d(context, steps.keys, kHead, kHeads, kCells, 68, steps.keys->nb[1], 0);
    ggml_tensor* turned = ggml_rope_ext(context, ggml_cast(context, view, GGML_TYPE_F32), by, nullptr, kHead, 0, 4096,
                                        10000.0f, 1.0f, 0.0f, 1.0f, 32.0f, 1.0f);
    steps.shifted = ggml_cpy(context, turned, view);
    EXPECT_NE(bench.allocate(), nullptr);
    Bench::set(cache, noise(static_cast<size_t>(ggml_nelements(cache)), 1));
    Bench::set(rows, noise(kHead * kHeads, 2));
    Bench::set(q, noise(static_cast<size_t>(ggml_nelements(q)), 3));
    Bench::set(steps.keys, noise(static_cast<size_t>(ggml_nelements(steps.keys)), 4));
    const int64_t row = 7;
    ggml_backend_tensor_set(where, &row, 0, sizeof row);
    ggml_backend_tensor_set(by, std::vector<int32_t>(kCells, 5).data(), 0, ggml_nbytes(by));
    for (ggml_tensor* result : {steps.attended, steps.decoded, steps.doubled})
        ggml_backend_tensor_memset(result, 0, 0, ggml_nbytes(result));
    return steps;
}

TEST_F(Graph, NodesThatAreNotToBeComputedAreLeftOut) {
    Bench bench(device_);
    const Steps steps = make_steps(bench);
    const std::vector<ggml_tensor*> results{steps.written, steps.attended, steps.decoded, steps.doubled, steps.shifted};
    ggml_cgraph* graph = graph_of(bench, results);
    std::vector<std::vector<uint8_t>> before;
    for (const ggml_tensor* result : results) before.push_back(Bench::bytes(result));
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        ggml_tensor* node = ggml_graph_node(graph, i);
        ASSERT_NE(node->flags & GGML_TENSOR_FLAG_COMPUTE, 0) << "the host marks what it wants computed";
        node->flags &= ~GGML_TENSOR_FLAG_COMPUTE;
    }
    ASSERT_EQ(ggml_backend_graph_compute(bench.backend(), graph), GGML_STATUS_SUCCESS);
    for (size_t i = 0; i < results.size(); ++i)
        EXPECT_TRUE(Bench::bytes(results[i]) == before[i]) << ggml_op_name(results[i]->op) << " was computed";
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) ggml_graph_node(graph, i)->flags |= GGML_TENSOR_FLAG_COMPUTE;
    ASSERT_EQ(ggml_backend_graph_compute(bench.backend(), graph), GGML_STATUS_SUCCESS);
    for (size_t i = 0; i < results.size(); ++i)
        EXPECT_FALSE(Bench::bytes(results[i]) == before[i]) << ggml_op_name(results[i]->op) << " was not computed";
}

TEST_F(Graph, AShiftWhoseMiddleIsLeftOutWritesWhatTheHostWould) {
    // Without its middle the chain's end writes what the memory of the middle holds: the host's own business, but the same bytes.
    const auto run = [](Bench& bench) {
        const Steps steps = make_steps(bench);
        ggml_tensor* turned = steps.shifted->src[0];
        ggml_backend_tensor_memset(turned, 0, 0, ggml_nbytes(turned));
        ggml_cgraph* graph = graph_of(bench, {steps.shifted});
        turned->flags &= ~GGML_TENSOR_FLAG_COMPUTE;
        EXPECT_EQ(ggml_backend_graph_compute(bench.backend(), graph), GGML_STATUS_SUCCESS);
        return Bench::bytes(steps.keys);
    };
    Bench ours(device_);
    Bench theirs(cpu_device());
    EXPECT_TRUE(run(ours) == run(theirs));
}

/** A host may compute a graph whose tensors it has put somewhere itself. */
TEST_F(Graph, OperandsWithoutABufferAreReadWhereTheyAre) {
    Bench bench(device_);
    ggml_tensor* k = bench.tensor("k", GGML_TYPE_F16, {kHead * kHeads, kCells});
    ggml_tensor* q = bench.tensor("q", GGML_TYPE_F32, {kHead, kTokens, kHeads});
    ggml_tensor* out = attention_of(bench, q, k, k, nullptr);
    std::vector<uint8_t> keys(ggml_nbytes(k), 0);
    std::vector<float> queries = noise(kHead * kTokens * kHeads, 3);
    std::vector<float> result(kHead * kTokens * kHeads, 1.0f);
    k->data = keys.data();
    q->data = queries.data();
    out->data = result.data();
    for (ggml_tensor* view : {out->src[1], out->src[2]}) view->data = keys.data();
    ASSERT_EQ(ggml_backend_graph_compute(bench.backend(), graph_of(bench, {out})), GGML_STATUS_SUCCESS);
    EXPECT_EQ(result, std::vector<float>(result.size(), 0.0f));
}

}  // namespace
}  // namespace atlas::host::test
