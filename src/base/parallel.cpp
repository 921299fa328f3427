#include "base/parallel.h"

#include <omp.h>

namespace atlas {

int max_threads() { return omp_get_max_threads(); }

int processor_count() { return omp_get_num_procs(); }

namespace parallel_detail {

void run_region(int n_threads, void (*body)(void* context, int thread, int threads), void* context) {
#pragma omp parallel num_threads(n_threads)
    body(context, omp_get_thread_num(), omp_get_num_threads());
}

void barrier() {
#pragma omp barrier
}

}  // namespace parallel_detail
}  // namespace atlas
