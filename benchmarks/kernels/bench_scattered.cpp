// Times exact attention over a selection of the keys, per call and with cold caches: the same number of keys as runs of neighbouring cells and
// as cells scattered one by one, in the pages of a real arena. Every KV head selects its own, as a sparse planner's heads do.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "bench.h"
#include "kernels/kernel_table.h"
#include "kernels/reference/reference.h"
#include "kv/page_table.h"

namespace {

using namespace atlas;

constexpr int64_t kGroupKeys = 32;
constexpr int64_t kStretchKeys = 512;  // over which the cells of a scattered group are spread

struct Settings {
    std::vector<int64_t> d{64, 128}, tokens{1, 64};
    std::vector<std::string> types{"f16", "q8_0"};
    int64_t heads_kv = 8, group = 4, keys = 1536, context = 131072;
    int threads = 2, repeats = 41, evict = 96;  // evict: MiB read between calls, 0: warm caches
};

void check(const Status& status) {
    if (status.is_ok()) return;
    std::fprintf(stderr, "bench_scattered: %s\n", status.to_string().c_str());
    std::exit(1);
}

/** A full cache of `context` cells and, per KV head, two selections of its keys. */
class Problem {
public:
    Problem(const Settings& s, int64_t d, int64_t tokens, DataType type)
        : settings_(s),
          row_(row_bytes(type, d) * static_cast<size_t>(s.heads_kv)),
          k_(tier_, clock_, row_, s.context),
          v_(tier_, clock_, row_, s.context) {
        std::normal_distribution<float> normal;
        // A pool of random cells fills the cache: what counts is where they lie.
        const size_t head_bytes = row_bytes(type, d);
        std::vector<std::byte> pool(row_ * 509);
        std::vector<float> values(static_cast<size_t>(d));
        for (size_t at = 0; at < pool.size(); at += head_bytes) {
            for (float& x : values) x = normal(random_);
            kernels::encode_row(type, values.data(), pool.data() + at, d);
        }
        for (int64_t key = 0; key < s.context; ++key) {
            const auto cell = static_cast<size_t>(key);
            check(k_.write(cell * row_, pool.data() + random_() % 509 * row_, row_));
            check(v_.write(cell * row_, pool.data() + random_() % 509 * row_, row_));
        }
        const kv::PageRange all{0, k_.pages()};
        check(k_.pin({&all, 1}, &k_pages_));
        check(v_.pin({&all, 1}, &v_pages_));
        const int64_t n_head = s.heads_kv * s.group;
        q_.resize(static_cast<size_t>(tokens * n_head * d));
        for (float& x : q_) x = normal(random_);
        out_.resize(q_.size());
        expected_.resize(q_.size());
        args.d_k = args.d_v = d;
        args.n_tokens = tokens;
        args.n_head = n_head;
        args.n_head_kv = s.heads_kv;
        args.k_type = args.v_type = type;
        args.k_stride = args.v_stride = static_cast<int64_t>(row_);
        args.scale = 1.0f / std::sqrt(static_cast<float>(d));
        args.q = q_.data();
        args.out = out_.data();
        args.q_head_stride = args.out_head_stride = d * 4;
        args.q_token_stride = args.out_token_stride = n_head * d * 4;
        make_mask(tokens);
        for (int64_t head = 0; head < s.heads_kv; ++head) {
            neighbours_.push_back(select(kGroupKeys));
            scattered_.push_back(select(kStretchKeys));
        }
        for (int64_t head = 0; head < s.heads_kv; ++head) {
            const auto h = static_cast<size_t>(head);
            const auto offset = head * static_cast<int64_t>(head_bytes);
            lists_[0].push_back({neighbours_[h], offset, offset});
            lists_[1].push_back({scattered_[h], offset, offset});
        }
    }

    void attend(bool scattered) {
        args.runs = lists_[scattered].data();
        check(kernels::attention(args, settings_.threads));
    }

    /** Largest difference from the float64 reference, over some rows of the last call. */
    double error() {
        kernels::AttentionArgs reference = args;
        reference.out = expected_.data();
        double worst = 0;
        for (int i = 0; i < 8; ++i) {
            const auto token = static_cast<int64_t>(random_()) % args.n_tokens;
            const auto head = static_cast<int64_t>(random_()) % args.n_head;
            kernels::reference::attend_row(reference, 0, token, head);
            const auto at = static_cast<size_t>((token * args.n_head + head) * args.d_v);
            for (size_t x = at; x < at + static_cast<size_t>(args.d_v); ++x)
                worst = std::max(worst, static_cast<double>(std::fabs(out_[x] - expected_[x])));
        }
        return worst;
    }

    kernels::AttentionArgs args;

private:
    void make_mask(int64_t tokens) {
        const int64_t n = settings_.context;
        mask_.assign(static_cast<size_t>(tokens * n), 0);
        for (int64_t t = 0; t < tokens; ++t) {
            for (int64_t key = n - tokens + t + 1; key < n; ++key) mask_[static_cast<size_t>(t * n + key)] = 0xFC00;
        }
        args.mask.data = mask_.data();
        args.mask.token_stride = n;
        args.mask.summary_blocks = (n + kernels::kBlockKeys - 1) / kernels::kBlockKeys;
        summary_.resize(static_cast<size_t>(tokens * args.mask.summary_blocks));
        kernels::summarize_mask(args.mask, tokens, n, summary_.data(), 1);
        args.mask.summary = summary_.data();
    }

    /** Groups of kGroupKeys keys, each drawn from `spread` neighbouring cells, as the engine lists them: a run per page, with gaps. */
    std::vector<kernels::Run> select(int64_t spread) {
        std::vector<char> chosen(static_cast<size_t>(settings_.context));
        // The newest stretch holds the tokens' own keys, of which most are hidden from some of them.
        const auto places = static_cast<uint64_t>(settings_.context / spread - 1);
        for (int64_t left = settings_.keys; left > 0;) {
            const auto begin = static_cast<int64_t>(random_() % places) * spread;
            for (int64_t n = 0, tries = 0; n < kGroupKeys && left > 0 && tries < 4 * spread; ++tries) {
                char& cell = chosen[static_cast<size_t>(begin + static_cast<int64_t>(random_()) % spread)];
                if (cell) continue;
                cell = 1;
                ++n;
                --left;
            }
        }
        std::vector<kernels::Run> runs;
        for (int64_t key = 0; key < settings_.context; key += kv::kPageRows) {
            uint64_t cells = 0;
            for (int64_t j = 0; j < std::min(kv::kPageRows, settings_.context - key); ++j)
                cells |= uint64_t{chosen[static_cast<size_t>(key + j)] != 0} << j;
            if (cells == 0) continue;
            const int64_t page = key / kv::kPageRows;
            runs.push_back(
                {k_pages_.page(page), v_pages_.page(page), static_cast<int32_t>(key), std::popcount(cells), cells});
        }
        return runs;
    }

    const Settings& settings_;
    std::mt19937 random_{1};
    const size_t row_;
    kv::Budget budget_;
    kv::RamTier tier_{budget_};
    kv::WriteClock clock_;
    kv::PageTable k_, v_;
    kv::Pinned k_pages_, v_pages_;  // all of them
    std::vector<float> q_, out_, expected_;
    std::vector<uint16_t> mask_;
    std::vector<kernels::BlockVisibility> summary_;
    std::vector<std::vector<kernels::Run>> neighbours_, scattered_;
    std::vector<kernels::HeadRuns> lists_[2];
};

bool bench(const Settings& s, int64_t d, int64_t tokens, DataType type) {
    Problem problem(s, d, tokens, type);
    static std::vector<char> evict(static_cast<size_t>(s.evict) << 20);
    std::vector<double> times[2];
    double error = 0;
    for (int i = -1; i < (tokens == 1 ? s.repeats : (s.repeats + 3) / 4); ++i) {
        for (const bool scattered : {false, true}) {
            for (size_t at = 0; at < evict.size(); at += 64) evict[at]++;
            const double time = timed([&] { problem.attend(scattered); });
            if (i >= 0) times[scattered].push_back(time);
            if (i < 0) error = std::max(error, problem.error());
        }
    }
    const bool right = error < 1e-5;
    const double bytes = 2.0 * static_cast<double>(row_bytes(type, d) * static_cast<size_t>(s.heads_kv * s.keys));
    const double neighbours = median(times[0]), scattered = median(times[1]);
    std::printf("| %lld | %lld | %s | %.1f (%.1f) | %.1f (%.1f) | %.2f× | %.1f | %.0e%s |\n",
                static_cast<long long>(tokens), static_cast<long long>(d), data_type_info(type).name, neighbours * 1e6,
                *std::min_element(times[0].begin(), times[0].end()) * 1e6, scattered * 1e6,
                *std::min_element(times[1].begin(), times[1].end()) * 1e6, scattered / neighbours,
                bytes / scattered / 1e9, error, right ? "" : " WRONG");
    std::fflush(stdout);
    return right;
}

[[noreturn]] void usage() {
    std::fputs(
        "bench_scattered [--d 64,128] [--tokens 1,64] [--types f16,q8_0] [--heads-kv 8] [--group 4] [--keys 1536] "
        "[--context 131072] [--threads 2] [--repeats 41] [--evict 96]\n",
        stderr);
    std::exit(2);
}

Settings parse(int argc, char** argv) {
    Settings s;
    if (argc % 2 == 0) usage();
    for (int i = 1; i < argc; i += 2) {
        const std::string name = argv[i];
        const char* value = argv[i + 1];
        if (name == "--d")
            s.d = list<int64_t>(value);
        else if (name == "--tokens")
            s.tokens = list<int64_t>(value);
        else if (name == "--types")
            s.types = list<std::string>(value);
        else if (name == "--heads-kv")
            s.heads_kv = std::atoll(value);
        else if (name == "--group")
            s.group = std::atoll(value);
        else if (name == "--keys")
            s.keys = std::atoll(value);
        else if (name == "--context")
            s.context = std::atoll(value);
        else if (name == "--threads")
            s.threads = std::atoi(value);
        else if (name == "--evict")
            s.evict = std::atoi(value);
        else if (name == "--repeats")
            s.repeats = std::atoi(value);
        else
            usage();
    }
    if (s.context < 2 * kStretchKeys || s.keys > s.context / 8 || s.repeats < 1) usage();
    return s;
}

DataType data_type(const std::string& name) {
    for (int i = 0; i + 1 < kDataTypeCount; ++i) {
        if (name == data_type_info(static_cast<DataType>(i)).name) return static_cast<DataType>(i);
    }
    usage();
}

}  // namespace

int main(int argc, char** argv) {
    const Settings settings = parse(argc, argv);
    std::printf(
        "%lld of %lld keys for each of %lld KV heads, %lld query heads each, %d threads, variant %s, %d MiB evicted. "
        "Times in µs: median (least).\n\n"
        "| tokens | d | KV | runs of %lld cells | single cells | ratio | GB/s | error "
        "|\n|---|---|---|---|---|---|---|---|\n",
        static_cast<long long>(settings.keys), static_cast<long long>(settings.context),
        static_cast<long long>(settings.heads_kv), static_cast<long long>(settings.group), settings.threads,
        kernels::kernel_variant(), settings.evict, static_cast<long long>(kGroupKeys));
    bool right = true;
    for (const int64_t tokens : settings.tokens) {
        for (const int64_t d : settings.d) {
            for (const std::string& type : settings.types) right &= bench(settings, d, tokens, data_type(type));
        }
    }
    return right ? 0 : 1;
}
