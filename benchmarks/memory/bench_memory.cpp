// Measures the memory: recall after one pass (capacity, ablation) and time against the flops that its equations need. Prints CSV; bench.py
// makes tables and a picture of it.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

#include "machine_limits.h"
#include "recall.h"

namespace mem = atlas::memory;

namespace {

Method learned(std::string name, int degree, mem::MemoryKind kind, int window, mem::NewtonSchulz muon, double momentum,
               double step) {
    Method method;
    method.name = std::move(name);
    method.degree = degree;
    method.shape.kind = kind;
    method.shape.hidden = 128;
    method.shape.residual = 0.0f;
    method.rule.window = window;
    method.rule.momentum = momentum;
    method.rule.step = step;
    method.rule.orthogonalize = muon;
    return method;
}

Method closed(std::string name, Method::Kind kind, int degree) {
    Method method;
    method.name = std::move(name);
    method.kind = kind;
    method.degree = degree;
    return method;
}

constexpr auto kDeep = mem::MemoryKind::kDeep;
constexpr auto kLinear = mem::MemoryKind::kLinear;
constexpr auto kPlain = mem::NewtonSchulz::kNone;
constexpr auto kMuon = mem::NewtonSchulz::kStandard;

/** Rows of ./dev report memory; step sizes are the best of a grid on seed 1. */
std::vector<Method> capacity_methods() {
    return {closed("Hebb φ1", Method::kHebbian, 1),
            closed("ridge φ1", Method::kRidge, 1),
            closed("delta φ2", Method::kDelta, 2),
            closed("ridge φ2", Method::kRidge, 2),
            closed("RLS φ2", Method::kRecursive, 2),
            learned("MLP φ1 c=1", 1, kDeep, 1, kPlain, 0.0, 3e-3),
            learned("MLP φ1 Ω16", 1, kDeep, 16, kPlain, 0.0, 3e-3),
            learned("MLP φ1 Ω16 Muon", 1, kDeep, 16, kMuon, 0.0, 2e-2)};
}

/** The full memory and what each part is worth: one part taken away at a time, each with its own best step size on seed 1. */
std::vector<Method> ablation_methods() {
    return {learned("full: MLP φ2 Ω16 Muon", 2, kDeep, 16, kMuon, 0.0, 1e-2),
            learned("c = 1", 2, kDeep, 1, kMuon, 0.0, 3e-2), learned("no polynomial", 1, kDeep, 16, kMuon, 0.0, 3e-3),
            learned("linear memory", 2, kLinear, 16, kMuon, 0.0, 1e-2),
            learned("no Muon", 2, kDeep, 16, kPlain, 0.0, 3e-3)};
}

void print_recall(const char* table, const std::vector<Method>& methods, const std::vector<size_t>& sizes, int seeds) {
    for (const Method& method : methods) {
        for (const size_t pairs : sizes) {
            for (int seed = 1; seed <= seeds; ++seed) {
                const double share = recall({32, pairs, static_cast<uint64_t>(seed)}, method);
                std::printf("%s,%s,%zu,%d,%.4f\n", table, method.name.c_str(), pairs, seed, share);
                std::fflush(stdout);
            }
        }
    }
}

struct Spread {
    double median, min, max;
};

/** Seconds of one call, after one that warms up; at least five calls and a tenth of a second. */
template <class F>
Spread timed(F f) {
    f();
    std::vector<double> times;
    double total = 0.0;
    while (times.size() < 5 || (total < 0.1 && times.size() < 2000)) {
        const auto start = std::chrono::steady_clock::now();
        f();
        times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
        total += times.back();
    }
    std::sort(times.begin(), times.end());
    return {times[times.size() / 2], times.front(), times.back()};
}

/** One head of d, hidden 4d, one thread. */
void print_throughput(size_t d, size_t chunk, int window, double peak) {
    std::mt19937_64 random(1);
    std::normal_distribution<float> normal;
    std::vector<float> x(chunk * d), v(chunk * d), y(chunk * d);
    for (float& value : x) value = normal(random);
    for (float& value : v) value = normal(random);
    const auto n = static_cast<double>(chunk);
    const auto dd = static_cast<double>(d * d);
    const auto report = [&](const char* part, double flops, const Spread& time) {
        std::printf("throughput,%s,%zu,%zu,%d,%.3f,%.3f,%.3f,%.6g,%.4f\n", part, d, chunk, window, 1e6 * time.median,
                    1e6 * time.min, 1e6 * time.max, flops, flops / time.median / peak);
        std::fflush(stdout);
    };
    for (const auto& [muon, bf16] : {std::pair{false, false}, {true, false}, {true, true}}) {
        mem::OmegaConfig rule;
        rule.bf16 = bf16;
        rule.window = window;
        rule.step = 1e-6;
        rule.orthogonalize = muon ? kMuon : kPlain;
        mem::OmegaLearner learner({kDeep, d, d, 4 * d, 0.0f, false}, rule, 1);
        const Spread learn = timed([&] { learner.learn(x.data(), v.data(), nullptr, chunk); });
        // Pairs of the window before the chunk are computed again; without Muon the outer products are summed twice (for S and for M).
        const double pairs = n + window - 1;
        report(bf16   ? "update with Muon in bf16"
               : muon ? "update with Muon"
                      : "update",
               muon ? 40.0 * dd * pairs + 180.0 * dd * static_cast<double>(d) : 56.0 * dd * pairs, learn);
        if (!muon) {
            report("read", 16.0 * dd * n, timed([&] { learner.read(x.data(), chunk, y.data()); }));
            report("read one", 16.0 * dd, timed([&] { learner.read(x.data(), 1, y.data()); }));
        }
    }
    std::vector<float> s(4 * d * d), out(s.size());
    for (float& value : s) value = normal(random);
    mem::MuonWorkspace work;
    for (const bool bf16 : {false, true}) {
        report(bf16 ? "Newton-Schulz in bf16" : "Newton-Schulz", 90.0 * dd * static_cast<double>(d),
               timed([&] { mem::muon_step(kMuon, d, 4 * d, s.data(), out.data(), &work, 0, bf16); }));
    }
}

}  // namespace

int main(int argc, char** argv) {
    int seeds = 3;
    bool slow = true;
    for (int i = 1; i < argc; ++i) {
        if (std::strcmp(argv[i], "--seeds") == 0 && i + 1 < argc) {
            seeds = std::atoi(argv[++i]);
        } else if (std::strcmp(argv[i], "--throughput") == 0) {
            slow = false;
        } else {
            std::fprintf(stderr, "usage: bench_memory [--seeds N] [--throughput]\n");
            return 2;
        }
    }
    const double peak = f32_peak(1);
    std::printf("peak,%.6g\n", peak);
    for (const size_t d : {64u, 128u}) print_throughput(d, 64, 16, peak);
    if (slow) {
        print_recall("capacity", capacity_methods(), {32, 128, 512}, seeds);
        print_recall("ablation", ablation_methods(), {128, 512}, seeds);
    }
    return 0;
}
