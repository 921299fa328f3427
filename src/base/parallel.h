#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <type_traits>
#include <vector>

// Loops over threads: the only entrance to OpenMP in src/ (a structure test sees to it). The host's own OpenMP workers are reused, since
// they belong to the same runtime and to the thread that calls.
//
// A body is called as fn(i) or fn(i, thread), 0 ≤ thread < n_threads: the number of the thread within this loop, for workspaces (two calls
// with the same number never run at once). An exception out of a body does not end the process: no further iterations are begun, and the
// first one thrown is thrown again to the caller once all threads are done. With one iteration or one thread there is no parallel region at
// all. In a body, a further loop runs on one thread, whatever it asks for.

namespace atlas {

/** kStatic: contiguous shares of equal length, for even work. kDynamic: one at a time in ascending order, first come, first served. */
enum class Schedule { kStatic, kDynamic };

/** Threads that a loop gets where nobody says how many (OMP_NUM_THREADS, else the processors). */
int max_threads();

/** Processors that this process may run on. */
int processor_count();

/** One loop of parallel_loops: fn for 0 ≤ i < n. */
template <class Fn>
struct Loop {
    int64_t n;
    Schedule schedule;
    Fn fn;
};
template <class Fn>
Loop(int64_t, Schedule, Fn) -> Loop<Fn>;  // clang 16 does not deduce it

namespace parallel_detail {

/** body(context, thread, threads) on each thread of a region of at most n_threads. */
void run_region(int n_threads, void (*body)(void* context, int thread, int threads), void* context);
/** Of the innermost region. */
void barrier();
void run_with_team(int n_threads, void (*work)(void* context), void* context);

/** What the threads of a region share: the first exception. */
class Failure {
public:
    bool any() const { return any_.load(std::memory_order_relaxed); }
    void take() {
        if (!taken_.exchange(true)) first_ = std::current_exception();
        any_.store(true, std::memory_order_relaxed);
    }
    /** After the region. */
    void rethrow() const {
        if (first_) std::rethrow_exception(first_);
    }

private:
    std::atomic<bool> any_{false}, taken_{false};
    std::exception_ptr first_;
};

template <class Fn>
void call(const Fn& fn, int64_t i, int thread) {
    if constexpr (std::is_invocable_v<const Fn&, int64_t, int>) {
        fn(i, thread);
    } else {
        fn(i);
    }
}

/** The iterations of a static share, all within one try: the loop stays as the compiler would make it of a plain one. */
template <class Fn>
void run_static(const Loop<Fn>& loop, int thread, int threads, Failure* failure) {
    const int64_t share = loop.n / threads;
    const int64_t longer = loop.n % threads;
    const int64_t begin = thread * share + (thread < longer ? thread : longer);
    const int64_t end = begin + share + (thread < longer ? 1 : 0);
    try {
        for (int64_t i = begin; i < end; ++i) call(loop.fn, i, thread);
    } catch (...) {
        failure->take();
    }
}

template <class Fn>
void run_dynamic(const Loop<Fn>& loop, int thread, std::atomic<int64_t>* next, Failure* failure) {
    try {
        for (int64_t i = (*next)++; i < loop.n && !failure->any(); i = (*next)++) call(loop.fn, i, thread);
    } catch (...) {
        failure->take();
    }
}

/** A loop's counter, alone in its cache line. */
struct alignas(64) Counter {
    std::atomic<int64_t> next{0};
};

}  // namespace parallel_detail

/**
 * The loops one after the other within one region: each begins when the one before it is done on all threads, and not at all where that one
 * threw. Cheaper than a region each.
 *
 * The team is n_threads however few iterations there are: OpenMP runtimes end and start threads where teams change in size.
 */
template <class... Fns>
void parallel_loops(int n_threads, const Loop<Fns>&... loops) {
    using namespace parallel_detail;
    if (n_threads <= 1 || ((loops.n <= 1) && ...)) {
        const auto serial = [](const auto& loop) {
            for (int64_t i = 0; i < loop.n; ++i) call(loop.fn, i, 0);
        };
        (serial(loops), ...);
        return;
    }
    Failure failure;
    Counter counters[sizeof...(loops)];
    const auto body = [&](int thread, int threads) {
        size_t index = 0;
        const auto run = [&](const auto& loop) {
            // Every thread comes to every barrier, whatever was thrown before.
            if (index > 0) barrier();
            Counter& counter = counters[index++];
            if (failure.any()) return;
            if (loop.schedule == Schedule::kStatic) {
                run_static(loop, thread, threads, &failure);
            } else {
                run_dynamic(loop, thread, &counter.next, &failure);
            }
        };
        (run(loops), ...);
    };
    using Body = decltype(body);
    run_region(
        n_threads,
        [](void* context, int thread, int threads) { (*static_cast<const Body*>(context))(thread, threads); },
        const_cast<void*>(static_cast<const void*>(&body)));
    failure.rethrow();
}

/**
 * fn() on this thread while a team of n_threads stands by: loops that fn comes to are handed to it, and none starts a region of
 * its own. They run on at most n_threads threads. Within a loop or another team it is fn() alone. Not for work that
 * starts threads of its own way: the team's keep their processors for up to 500 µs. Throws what fn throws.
 */
template <class Fn>
void with_team(int n_threads, const Fn& fn) {
    parallel_detail::run_with_team(
        n_threads, [](void* context) { (*static_cast<const Fn*>(context))(); },
        const_cast<void*>(static_cast<const void*>(&fn)));
}

/** fn for 0 ≤ i < n on up to n_threads threads. */
template <class Fn>
void parallel_for(int64_t n, int n_threads, Schedule schedule, const Fn& fn) {
    parallel_loops(n_threads, Loop<const Fn&>{n, schedule, fn});
}

/**
 * fn(i, sum) for 0 ≤ i < n, static: each thread adds to a `Sum` of its own that begins as Sum{}; they are added in the order of the threads, so
 * that the result depends on n and n_threads alone.
 */
template <class Sum, class Fn>
Sum parallel_sum(int64_t n, int n_threads, const Fn& fn) {
    struct alignas(64) Part {
        Sum sum{};
    };
    std::vector<Part> parts(static_cast<size_t>(n_threads > 1 && n > 1 ? n_threads : 1));
    parallel_for(n, n_threads, Schedule::kStatic,
                 [&](int64_t i, int thread) { fn(i, parts[static_cast<size_t>(thread)].sum); });
    Sum total = parts[0].sum;
    for (size_t i = 1; i < parts.size(); ++i) total += parts[i].sum;
    return total;
}

}  // namespace atlas
