#include "kernels/cpu/attention/mend_row.h"

#include "kernels/reference/reference.h"

namespace atlas::kernels::cpu {

void mend_row(const Problem& problem, int64_t stream, int64_t token, int64_t head) {
    const float* out = problem.out(stream, token, head);
    if (!problem.args.mask.data || problem.softmax.finite(out, static_cast<size_t>(problem.args.d_v))) return;
    reference::attend_row(problem.args, stream, token, head);
}

}  // namespace atlas::kernels::cpu
