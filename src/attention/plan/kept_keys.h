#pragma once

#include <cstdint>
#include <vector>

#include "attention/call.h"
#include "attention/plan/runs.h"
#include "attention/plan/visibility.h"
#include "base/status.h"
#include "kernels/attention.h"

namespace atlas::attention {

/**
 * Lists of the keys that each token's mask leaves, for masks that hide most keys one by one: models that select keys themselves (DeepSeek V3.2,
 * GLM-5) hand their selection over as a mask of few finite entries. Exact: what is left out has weight 0. Not thread-safe; buffers only grow.
 */
class KeptKeys {
public:
    /**
     * Whether lists of single keys are worth it: the pages of which a token sees a part hold several times as many hidden keys as visible ones. Needs a
     * mask with a summary, K and V in cells, and at most kMostTokens tokens; looks at the mask's values in such pages only. Throws std::bad_alloc.
     */
    bool find(const AttentionCall& call);
    static constexpr int64_t kMostTokens = 64;

    /**
     * After find(): lists [stream][KV head][token], one token a tile, valid until the next call; pages stay pinned as long. Errors as kv::PageTable::pin.
     * Throws std::bad_alloc.
     */
    Status pin(const AttentionCall& call, const kernels::HeadRuns** lists);
    /** Ends the pins. */
    void unpin() noexcept { cells_.unpin(); }

private:
    std::vector<std::vector<PageCells>> kept_;     // [stream][token]
    std::vector<std::vector<kernels::Run>> runs_;  // the same
    std::vector<kernels::HeadRuns> lists_;
    PageSet pages_;
    PinnedCells cells_;
};

}  // namespace atlas::attention
