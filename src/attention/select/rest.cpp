#include "attention/select/rest.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numbers>

#include "base/per_thread.h"
#include "kernels/codes.h"

namespace atlas::attention {
namespace {

constexpr int64_t kPagesAhead = 4;

}  // namespace

double estimate_rest(TileScores& scores, const std::vector<PageCells>& selected, float* far_lse, float* far_out) {
    const int64_t rows = scores.rows();
    const KeyIndex& index = scores.index();
    const kernels::CodeShape& shape = index.shape();
    thread_local PerThread<std::vector<float>> of_rest, of_all;
    std::vector<float>& rest = of_rest.get();
    std::vector<float>& all = of_all.get();
    rest.resize(static_cast<size_t>(rows));
    all.assign(static_cast<size_t>(rows), 0.0f);
    std::fill(far_out, far_out + rows * shape.d_v, 0.0f);
    double keys = 0.0;
    size_t next = 0;
    for (int64_t page = 0; page < scores.pages(); ++page) {
        const int64_t first = scores.page_of(page) * kernels::kCodeKeys;
        uint64_t cells = 0;
        if (next < selected.size() && selected[next].key == first) cells = selected[next++].cells;
        if (cells == ~uint64_t{0}) continue;
        // A page is summed anew without its selected keys: to subtract them would leave rounding errors larger than the rest.
        if (cells == 0) {
            std::copy_n(scores.sums(page), rows, rest.data());
        } else {
            kernels::sum_weights(scores.weights(page), rows, ~cells, rest.data());
        }
        const int64_t number = scores.view().base_page + scores.page_of(page);
        if (scores.view().use[static_cast<size_t>(scores.page_of(page))] == PageUse::kFar) {
            if (page + kPagesAhead < scores.pages()) scores.prefetch_mean(page + kPagesAhead);
            kernels::add_rest(shape, index.codes(number, scores.head()), rest.data(), scores.squares(), rows,
                              all.data(), far_out);
            keys += std::popcount(~cells);
            continue;
        }
        // Tokens may see different keys of it: each gets the mean of its own.
        const int64_t group = scores.group();
        int most = 0;
        for (int64_t token = 0; token < rows / group; ++token) {
            float* of_token = rest.data() + token * group;
            const uint64_t seen = scores.cells_of(page, token);
            if ((seen & ~cells) == 0) continue;
            most = std::max(most, std::popcount(seen & ~cells));
            for (int64_t h = 0; h < group; ++h) {
                of_token[h] *= scores.trust(page, token * group + h);
                all[static_cast<size_t>(token * group + h)] += of_token[h];
            }
            kernels::add_value_mean(index.mean_of(number, seen, scores.head()), shape.d_v, of_token, group,
                                    far_out + token * group * shape.d_v);
        }
        keys += most;
    }
    for (int64_t row = 0; row < rows; ++row) {
        const float sum = all[static_cast<size_t>(row)];
        far_lse[row] = sum > 0.0f ? (scores.shift(row) + std::log2(sum)) * std::numbers::ln2_v<float>
                                  : -std::numeric_limits<float>::infinity();
        const float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;
        for (int64_t i = 0; i < shape.d_v; ++i) far_out[row * shape.d_v + i] *= inverse;
    }
    return keys;
}

}  // namespace atlas::attention
