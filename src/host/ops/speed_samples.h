#pragma once

#include <ggml.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/parallel.h"
#include "base/status.h"
#include "host/graph/graph_plan.h"
#include "host/ops/delegate.h"
#include "runtime/activity.h"

namespace atlas::host {

/**
 * Times the host's own operation on the tensors of some of Atlas's, whose results it leaves alone: at most one step of a graph, of attention and of products with
 * weights in turn. What that costs is kept below kShare of the time of all graphs: a step is only sampled once as much is left over as it is likely to cost.
 *
 * What is compared is processor time of the thread that runs the graph, since a machine that others use takes away wall-clock time from whom it likes. Neither side
 * is charged for bringing its threads together: in a graph that happens once, not for each operation.
 * One per backend instance; not thread-safe.
 */
class SpeedSamples {
public:
    static constexpr double kShare = 0.005;

    explicit SpeedSamples(CpuDelegate& delegate) : delegate_(delegate) {}

    /** Chooses the step of this graph that is sampled, if any. */
    void begin_graph(std::span<const Step> steps);
    /** Number of that step; beyond all steps if there is none. */
    size_t step() const { return step_; }

    /**
     * Runs own(), which computes the step and returns the module that did, with a team of threads, and the host's operation on its tensors, in changing order: what
     * comes second finds warm caches. own's result is the result; where the host's fails, nothing is measured. Throws what own throws.
     */
    template <typename Own>
    void run(const Step& step, int n_threads, const Own& own) {
        const size_t kind = step.is_product() ? 1 : 0;
        const bool host_first = prepare(step) && host_first_[kind];
        host_first_[kind] = !host_first_[kind];
        if (host_first) run_host();
        runtime::Module module{};
        // The team is gone when the host's threads start.
        with_team(n_threads, [&] {
            const double begin = processor_seconds();
            module = own();
            own_ = processor_seconds() - begin;
        });
        if (ready_ && !host_first) run_host();
        finish(step, module, host_first);
    }

    /** A graph took so many seconds in all; adds what was measured. */
    void end_graph(double seconds, runtime::Work* work);

private:
    static double now();
    /** Of this thread. */
    static double processor_seconds();
    bool prepare(const Step& step);
    void run_host();
    void finish(const Step& step, runtime::Module module, bool host_first);
    double expected(const Step& step) const;

    CpuDelegate& delegate_;
    size_t step_ = SIZE_MAX;
    bool products_next_ = false;
    std::array<bool, 2> host_first_{};  // of the next sample of attention, of products
    uint64_t random_ = 88172645463325252u;
    double saved_ = 0.0;  // seconds that may be spent on the next sample; below 0 after one that was dearer
    // Seconds of the host for a unit of work, likely rather too many: attention, products.
    std::array<double, 2> rate_{2e-10, 2e-10};

    // Of the present sample.
    bool ready_ = false;
    double own_ = 0.0;  // seconds of the processor
    double host_ = 0.0;
    double copies_ = 0.0;
    double spent_ = 0.0;  // seconds, on what the graph did not need
    std::vector<std::byte> result_;
    ggml_tensor node_{};
    std::array<ggml_tensor, GGML_MAX_SRC> sources_{};
    std::vector<std::vector<std::byte>> operands_;  // copies of those in pages

    double spent_in_graph_ = 0.0;
    std::array<runtime::Measured, runtime::kModules> measured_{};  // of this graph
};

}  // namespace atlas::host
