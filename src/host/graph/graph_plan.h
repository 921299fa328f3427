#pragma once

#include <ggml.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "host/graph/cache_chain.h"
#include "host/ops/op.h"

namespace atlas::host {

enum class StepKind {
    kOwn,        ///< one node, by an operation of Atlas
    kDelegated,  ///< nodes that follow each other, by the host's CPU backend
    kPaged,      ///< one node with operands in pages, by the host's CPU backend on copies
    kKeyShift,   ///< a chain over a quantised cache
};

struct Step {
    StepKind kind;
    const Op* op = nullptr;                     ///< kOwn
    ggml_tensor* node = nullptr;                ///< kOwn, kPaged; kKeyShift: the last of the chain
    size_t first = 0, count = 0;                ///< kDelegated: nodes; kKeyShift: first is the chain
    const ggml_tensor* next_product = nullptr;  ///< kOwn: the next product with weights behind it
    bool masks_changed = false;                 ///< kOwn: a mask that an earlier step read may hold other values by now

    bool is_attention() const { return op && op->mask != kNone; }
    /** Whether it is a product with weights, or with those of chosen experts. */
    bool is_product() const;
};

/**
 * What is to be done for a graph, in order. Nodes that the host does not want computed, views and empty results need nothing.
 *
 * Made anew for each graph: nothing in a node may be relied on from one graph to the next (hosts rebuild tensors at the same addresses and
 * give caches back), and making it costs a few percent of what the cheapest of its steps does. Keeps its buffers. Not thread-safe.
 */
class GraphPlan {
public:
    /** Which of its own operations Atlas runs; the host's CPU backend the others. */
    struct Own {
        bool attention = true;
        bool weights = true;  ///< products with weights, and what comes with the whole graph
    };
    /** Throws std::bad_alloc. */
    void build(ggml_cgraph* graph, Own own);

    std::span<const Step> steps() const { return steps_; }
    std::span<ggml_tensor* const> delegated(const Step& step) const {
        return std::span<ggml_tensor* const>(delegated_).subspan(step.first, step.count);
    }
    /** Of all steps: what Atlas runs, what the host does for it, and of these the nodes that Own leaves to it. */
    struct Counts {
        uint64_t own = 0;
        uint64_t host = 0;
        uint64_t products = 0;
        uint64_t products_by_host = 0;
        uint64_t attention_by_host = 0;
    };
    const Counts& counts() const { return counts_; }
    const CacheChain& chain(const Step& step) const { return chains_[step.first]; }

private:
    using Range = std::pair<const std::byte*, const std::byte*>;

    void delegate(ggml_tensor* node);
    bool reads_mask(const ggml_tensor* mask);
    void writes(const ggml_tensor* node);
    void look_ahead();

    const Op* op_of(const ggml_tensor* node, Own own);

    std::vector<Step> steps_;
    Counts counts_;
    std::vector<ggml_tensor*> delegated_;
    std::vector<CacheChain> chains_;
    std::vector<Range> masks_;   // read by steps so far
    bool mask_written_ = false;  // one of them, since
};

}  // namespace atlas::host
