#pragma once

#include <ggml.h>

#include <array>

#include "base/status.h"
#include "host/ops/attention.h"
#include "host/ops/mat_mul.h"
#include "host/ops/rope.h"

namespace atlas::host {

/** What running a node may need besides the node; one per backend instance. */
struct OpContext {
    FlashAttention& attention;
    MatMul& mat_mul;
    Rope& rope;
    int n_threads;
    const ggml_tensor* next_product;  ///< the product with weights that follows, or nullptr
};

constexpr int kNone = -1;    ///< no operand
constexpr int kResult = -2;  ///< the node itself, where sources are counted from 0

/** One operation that Atlas runs itself: a row of ops/table.cpp. A node with an operand or a parameter beyond these numbers is declined. */
struct Op {
    const char* name;          ///< as ggml_op_name says
    int required;              ///< the first sources, which must be there
    int sources;               ///< sources that are known
    int params;                ///< words of op_params that are known; those behind are to be 0
    int mask;                  ///< source that later nodes of the graph may share and that is read in summary, or kNone
    std::array<int, 2> paged;  ///< operands that may lie in pages when it runs; others are copied out of pages before

    /** Whether what it works on makes it ours, owner: the KV lies with us. nullptr: always. If not, nobody is told. */
    bool (*is_ours)(const ggml_tensor* node, bool owner);
    /** Unsupported and the reason, by types, shapes and parameters alone; buffers and data may be missing. */
    Status (*check)(const ggml_tensor* node);
    /** The node passed `check`. May throw std::bad_alloc. */
    Status (*run)(const ggml_tensor* node, const OpContext& context);
};

}  // namespace atlas::host
