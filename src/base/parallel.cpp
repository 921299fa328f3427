#include "base/parallel.h"

#include <omp.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace atlas {
namespace {

using Body = void (*)(void* context, int thread, int threads);

/**
 * 200 to 500 µs: longer than what is done between the loops of a token and than threads wait for each other in sparse layers. To sleep and to be woken costs
 * 20 µs of kernel time in a virtual machine, which was 3 ms of a token with 28 such layers.
 */
constexpr int kSpins = 10000;

void relax() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/** Threads that meet in memory: awake for a while, then asleep. */
class Team {
public:
    explicit Team(int most_threads) : spins_(most_threads <= omp_get_num_procs() ? kSpins : 0) {}

    /** Of the first thread, before the first run: the threads that there really are. */
    void set_size(int threads) { size_ = threads; }

    /** Of every thread but the first: runs what is posted until the team is dismissed. */
    void serve(int thread) {
        for (int seen = 0;;) {
            wait_while(posted_, seen);
            seen = posted_.load(std::memory_order_acquire);
            if (!body_) return;
            if (thread < threads_) body_(context_, thread, threads_);
            leave();
        }
    }

    /** Of the first thread, which takes part: returns when the body is done on all. */
    void run(int threads, Body body, void* context) {
        threads_ = threads < size_ ? threads : size_;
        body_ = body;
        context_ = context;
        running_.store(size_ - 1, std::memory_order_relaxed);
        post();
        body(context, 0, threads_);
        for (int left = running_.load(std::memory_order_acquire); left > 0;
             left = running_.load(std::memory_order_acquire))
            wait_while(running_, left);
    }

    /** Within a body, by all threads that it runs on. */
    void barrier() {
        const int phase = phase_.load(std::memory_order_relaxed);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
            arrived_.store(0, std::memory_order_relaxed);
            phase_.store(phase + 1, std::memory_order_release);
            phase_.notify_all();
        } else {
            wait_while(phase_, phase);
        }
    }

    void dismiss() {
        body_ = nullptr;
        post();
    }

private:
    void post() {
        posted_.fetch_add(1, std::memory_order_release);
        posted_.notify_all();
    }
    void leave() {
        if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) running_.notify_one();
    }
    void wait_while(const std::atomic<int>& value, int old) const {
        for (int i = 0; i < spins_; ++i) {
            if (value.load(std::memory_order_acquire) != old) return;
            relax();
        }
        // Looked at once more by ourselves: what the sleep saw, it saw within the C++ library, where ThreadSanitizer does not look.
        while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
    }

    const int spins_;
    int size_ = 1;  // only the first thread's
    // What is posted.
    Body body_ = nullptr;
    void* context_ = nullptr;
    int threads_ = 0;
    alignas(64) std::atomic<int> posted_{0};
    alignas(64) std::atomic<int> running_{0};
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<int> phase_{0};
};

thread_local Team* t_team = nullptr;  // whose first thread this is, or whose body it runs
thread_local bool t_in_body = false;  // of t_team

/** The body of a team's loop, which loops within it can tell. */
struct TeamBody {
    Body body;
    void* context;

    static void run(void* of, int thread, int threads) {
        const auto& me = *static_cast<const TeamBody*>(of);
        t_in_body = true;
        me.body(me.context, thread, threads);  // takes care of what is thrown
        t_in_body = false;
    }
};

}  // namespace

int max_threads() { return omp_get_max_threads(); }

int processor_count() { return omp_get_num_procs(); }

namespace parallel_detail {

void run_region(int n_threads, Body body, void* context) {
    if (t_in_body) return body(context, 0, 1);
    if (t_team) {
        TeamBody of_team{body, context};
        return t_team->run(n_threads, TeamBody::run, &of_team);
    }
#pragma omp parallel num_threads(n_threads)
    body(context, omp_get_thread_num(), omp_get_num_threads());
}

void barrier() {
    if (t_in_body) return t_team->barrier();
#pragma omp barrier
}

void run_with_team(int n_threads, void (*work)(void* context), void* context) {
    if (n_threads <= 1 || t_team || omp_in_parallel()) return work(context);
    std::exception_ptr thrown;
    Team team(n_threads);
#pragma omp parallel num_threads(n_threads)
    {
        t_team = &team;
        if (omp_get_thread_num() == 0) {
            team.set_size(omp_get_num_threads());
            try {
                work(context);
            } catch (...) {
                thrown = std::current_exception();
            }
            team.dismiss();
        } else {
            team.serve(omp_get_thread_num());
        }
        t_team = nullptr;
    }
    if (thrown) std::rethrow_exception(thrown);
}

}  // namespace parallel_detail
}  // namespace atlas
