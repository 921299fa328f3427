// Times sparse attention alone, per call, beside exact attention on the same pages: does its cost per token stay flat as the context grows?
// Settings come from the ATLAS_ variables; the caches of the CPU are emptied between calls, as a model's other layers would.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "attention/engine.h"
#include "attention/stats.h"
#include "bench.h"
#include "kernels/kernel_table.h"

namespace {

using namespace atlas;

struct Shape {
    int64_t heads, heads_kv, d, tokens;
};

/** Keys that turn with their position about a mean that changes every 24 tokens, f16; the tokens are the newest of n_keys. */
class Problem {
public:
    Problem(const Shape& shape, int64_t n_keys)
        : row_(static_cast<size_t>(shape.heads_kv * shape.d) * 2),
          k(tier_, clock_, row_, n_keys),
          v(tier_, clock_, row_, n_keys) {
        std::mt19937 random(1);
        std::normal_distribution<float> normal;
        std::vector<uint16_t> values(row_ / 2);
        std::vector<float> topic(row_ / 2);
        for (int64_t key = 0; key < n_keys; ++key) {
            if (key % 24 == 0) {
                for (float& x : topic) x = 0.5f * normal(random);
            }
            for (size_t i = 0; i < values.size(); ++i) {
                const auto pair = static_cast<double>(static_cast<int64_t>(i) % shape.d / 2);
                const double angle =
                    static_cast<double>(key) * std::pow(500000.0, -2.0 * pair / static_cast<double>(shape.d));
                values[i] =
                    kernels::f32_to_f16(topic[i] + static_cast<float>(i % 2 ? std::sin(angle) : std::cos(angle)));
            }
            check(k.write(static_cast<size_t>(key) * row_, values.data(), row_));
            for (uint16_t& x : values) x = static_cast<uint16_t>(0x3800 + (random() & 0x83ff));
            check(v.write(static_cast<size_t>(key) * row_, values.data(), row_));
        }
        args.d_k = args.d_v = shape.d;
        args.n_tokens = shape.tokens;
        args.n_head = shape.heads;
        args.n_head_kv = shape.heads_kv;
        args.k_stride = args.v_stride = static_cast<int64_t>(row_);
        args.scale = 1.0f / std::sqrt(static_cast<float>(shape.d));
        q_.resize(static_cast<size_t>(shape.tokens * shape.heads * shape.d));
        for (float& x : q_) x = 1.5f * normal(random);
        out_.resize(q_.size());
        args.q = q_.data();
        args.out = out_.data();
        args.q_head_stride = args.out_head_stride = shape.d * 4;
        args.q_token_stride = args.out_token_stride = shape.heads * shape.d * 4;
        mask_.assign(static_cast<size_t>(shape.tokens * n_keys), 0);
        for (int64_t t = 0; t < shape.tokens; ++t) {
            for (int64_t key = n_keys - shape.tokens + t + 1; key < n_keys; ++key)
                mask_[static_cast<size_t>(t * n_keys + key)] = 0xFC00;
        }
        args.mask.data = mask_.data();
        args.mask.token_stride = n_keys;
        args.mask.summary_blocks = (n_keys + kernels::kBlockKeys - 1) / kernels::kBlockKeys;
        summary_.resize(static_cast<size_t>(shape.tokens * args.mask.summary_blocks));
        kernels::summarize_mask(args.mask, shape.tokens, n_keys, summary_.data(), 1);
        args.mask.summary = summary_.data();
        call.args = args;
        call.n_keys = n_keys;
        call.layer = 5;
        for (auto [rows, table] : {std::pair{&call.k, &k}, {&call.v, &v}}) {
            rows->pages = table;
            rows->head_stride = rows->row_bytes = shape.d * 2;
            rows->key_stride = static_cast<int64_t>(row_);
        }
    }

    static void check(const Status& status) {
        if (status.is_ok()) return;
        std::fprintf(stderr, "bench_sparse: %s\n", status.to_string().c_str());
        std::exit(1);
    }

private:
    const size_t row_;
    kv::Budget budget_;
    kv::RamTier tier_{budget_};
    kv::WriteClock clock_;
    std::vector<float> q_, out_;
    std::vector<uint16_t> mask_;
    std::vector<kernels::BlockVisibility> summary_;

public:
    kv::PageTable k, v;
    kernels::AttentionArgs args;
    attention::AttentionCall call;
};

/** Prints one row and returns the median time of a sparse call. */
double bench(const Shape& shape, int64_t n_keys, int threads, int repeats, double first_cost, const Options& options) {
    Problem problem(shape, n_keys);
    attention::Settings settings = options.sparse;
    if (settings.mode == attention::Mode::kExact) settings.mode = attention::Mode::kSparse;
    attention::KeyIndex index(problem.k, problem.v, shape.heads_kv, shape.d, shape.d);
    attention::Engine engine(settings);
    std::vector<char> evict(size_t{96} << 20);
    const auto timed_cold = [&](const auto& work) {
        for (size_t i = 0; i < evict.size(); i += 64) evict[i]++;
        return timed([&] { Problem::check(work()); });
    };
    const auto sparse = [&] { return engine.attend(problem.call, index, threads); };
    const auto exact = [&] { return engine.exact(problem.call, threads); };
    const double first = timed_cold(sparse);
    std::vector<double> sparse_times, exact_times, later_layer;
    for (int i = 0; i < repeats; ++i) {
        engine.begin_graph();
        sparse_times.push_back(timed_cold(sparse));
        later_layer.push_back(timed_cold(sparse));
        if (i % 4 == 0) exact_times.push_back(timed_cold(exact));
    }
    const double cost = median(later_layer);
    std::printf(
        "| %lld/%lld | %lld | %lld | %lld | %.3f | %.3f | %.2f | %.3f | %.1f× | %.1f | %.2f %% |\n",
        static_cast<long long>(shape.heads), static_cast<long long>(shape.heads_kv), static_cast<long long>(shape.d),
        static_cast<long long>(shape.tokens), static_cast<long long>(n_keys), cost * 1e3, median(sparse_times) * 1e3,
        first_cost > 0 ? cost / first_cost : 1.0, median(exact_times) * 1e3, median(exact_times) / cost, first * 1e3,
        100.0 * static_cast<double>(index.bytes()) / static_cast<double>(problem.k.bytes() + problem.v.bytes()));
    std::fflush(stdout);
    return cost;
}

}  // namespace

int main(int argc, char** argv) {
    std::vector<int64_t> keys{8192, 32768, 131072};
    Shape shape{8, 2, 64, 1};
    int threads = 2;
    int repeats = 40;
    for (int i = 1; i + 1 < argc; i += 2) {
        const std::string name = argv[i];
        const std::vector<int64_t> values = list<int64_t>(argv[i + 1]);
        if (name == "--keys" && !values.empty())
            keys = values;
        else if (name == "--shape" && values.size() == 3)
            shape = {values[0], values[1], values[2], shape.tokens};
        else if (name == "--tokens" && values.size() == 1)
            shape.tokens = values[0];
        else if (name == "--threads" && values.size() == 1)
            threads = static_cast<int>(values[0]);
        else if (name == "--repeats" && values.size() == 1)
            repeats = static_cast<int>(values[0]);
        else
            argc = 0;
    }
    Options options;
    const Status status = read_environment(&options, nullptr);
    if (argc % 2 == 0 || !status.is_ok()) {
        std::fprintf(stderr,
                     "bench_sparse [--keys 8192,32768,131072] [--shape HEADS,KV_HEADS,D] [--tokens 1] [--threads 2] "
                     "[--repeats 40]\n%s\n",
                     status.to_string().c_str());
        return 2;
    }
    std::printf(
        "%d threads, %s; medians in ms; cold caches\n\n"
        "| heads | d | tokens | keys | sparse | first layer of a graph | of first row | exact | ratio | building the "
        "index | "
        "index of KV |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
        threads, kernels::kernel_variant());
    double first = 0.0;
    for (const int64_t n : keys) {
        const double cost = bench(shape, n, threads, repeats, first, options);
        if (first == 0.0) first = cost;
    }
}
