// Times Atlas's attention and the host CPU backend's, on the same tensors in the same run, alternating, and compares their results.
#include <ggml-backend.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "bench.h"
#include "host_attention.h"
#include "kernels/kernel_table.h"
#include "machine_limits.h"

namespace {

using namespace atlas;

struct Settings {
    std::vector<int64_t> d{64, 128}, group{4, 8}, keys{4096, 8192, 16384}, tokens{1, 512};
    std::vector<std::string> types{"f16", "q8_0", "q4_0"};
    int64_t heads_kv = 8;
    int threads = 2;
    int repeats = 5;
    double host_limit = 4;  // seconds per case that the host may take before it is timed less often
    bool csv = false;
    bool host = true;
};

struct Spread {
    double median = 0, min = 0, max = 0;
};

Spread spread(std::vector<double> times) {
    std::sort(times.begin(), times.end());
    if (times.empty()) return {};
    return {times[times.size() / 2], times.front(), times.back()};
}

DataType data_type(const std::string& name) {
    for (int i = 0; i + 1 < kDataTypeCount; ++i) {
        if (name == data_type_info(static_cast<DataType>(i)).name) return static_cast<DataType>(i);
    }
    std::fprintf(stderr, "bench_attention: unknown type %s\n", name.c_str());
    std::exit(2);
}

/** The same problem for Atlas, over the host's tensors; includes what the plug-in does per operation: the mask's summary. */
class AtlasAttention {
public:
    AtlasAttention(const Shape& s, const HostAttention& host, int threads) : shape_(s), threads_(threads) {
        const int64_t n_head = s.n_head_kv * s.group;
        out_.resize(static_cast<size_t>(s.n_tokens * n_head * s.d));
        run_ = {host.k(), host.v(), 0, static_cast<int32_t>(s.n_keys)};
        for (int64_t h = 0; h < s.n_head_kv; ++h)
            heads_.push_back({{&run_, 1}, h * host.row_bytes(), h * host.row_bytes()});
        a_.d_k = a_.d_v = s.d;
        a_.n_tokens = s.n_tokens;
        a_.n_head = n_head;
        a_.n_head_kv = s.n_head_kv;
        a_.k_type = a_.v_type = data_type(s.type);
        a_.k_stride = a_.v_stride = host.row_bytes() * s.n_head_kv;
        a_.q = host.q();
        a_.q_head_stride = s.d * 4;
        a_.q_token_stride = n_head * s.d * 4;
        a_.out = out_.data();
        a_.out_head_stride = a_.q_head_stride;
        a_.out_token_stride = a_.q_token_stride;
        a_.runs = heads_.data();
        a_.mask.data = host.mask();
        a_.mask.token_stride = s.n_keys;
        a_.scale = 1.0f / std::sqrt(static_cast<float>(s.d));
        a_.mask.summary_blocks = (s.n_keys + kernels::kBlockKeys - 1) / kernels::kBlockKeys;
        blocks_.resize(static_cast<size_t>(s.n_tokens * a_.mask.summary_blocks));
        a_.mask.summary = blocks_.data();
    }

    void run() {
        kernels::summarize_mask(a_.mask, shape_.n_tokens, shape_.n_keys, blocks_.data(), threads_);
        if (const Status status = kernels::attention(a_, threads_); !status.is_ok()) {
            std::fprintf(stderr, "bench_attention: %s\n", status.to_string().c_str());
            std::exit(1);
        }
    }
    const std::vector<float>& out() const { return out_; }

private:
    Shape shape_;
    int threads_;
    std::vector<float> out_;
    kernels::Run run_{};
    std::vector<kernels::HeadRuns> heads_;
    std::vector<kernels::BlockVisibility> blocks_;
    kernels::AttentionArgs a_;
};

double nmse(const std::vector<float>& a, const float* b) {
    double error = 0, power = 0;
    for (size_t i = 0; i < a.size(); ++i) {
        error += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
        power += static_cast<double>(b[i]) * b[i];
    }
    return error / power;
}

/** Times one shape; false when the results differ by more than test-backend-ops allows (NMSE 5e-4). */
bool bench(const Shape& s, const Settings& settings, double bandwidth, double peak) {
    HostAttention host(s, settings.threads);
    AtlasAttention ours(s, host, settings.threads);
    double host_first = 0;
    if (settings.host) host_first = timed([&] { host.run(); });
    ours.run();
    const double error = settings.host ? nmse(ours.out(), host.out()) : 0;
    // The cache of last level holds small KV caches; a model's other layers would have pushed them out, so we do.
    static std::vector<char> evict(size_t{96} << 20);
    const auto cold = [&] {
        for (size_t i = 0; i < evict.size(); i += 64) evict[i]++;
    };
    std::vector<double> host_times, our_times;
    const int host_repeats =
        settings.host ? std::clamp(static_cast<int>(settings.host_limit / host_first), 1, settings.repeats) : 0;
    const int repeats = s.n_tokens == 1 ? settings.repeats * 3 : settings.repeats;
    for (int i = 0; i < repeats; ++i) {
        if (i < host_repeats) {
            cold();
            host_times.push_back(timed([&] { host.run(); }));
        }
        cold();
        our_times.push_back(timed([&] { ours.run(); }));
    }
    const Spread h = spread(host_times), o = spread(our_times);
    // Visible (query, key) pairs; each costs a multiply-add per element of K and of V.
    const double pairs =
        static_cast<double>(s.n_tokens) * (static_cast<double>(s.n_keys) - static_cast<double>(s.n_tokens - 1) / 2);
    const double flops = 4.0 * static_cast<double>(s.d * s.n_head_kv * s.group) * pairs;
    const double bytes = 2.0 * static_cast<double>(host.row_bytes() * s.n_head_kv * s.n_keys);
    const bool decode = s.n_tokens < 8;
    const double reached = decode ? bytes / o.median : flops / o.median;
    const double share = 100 * reached / (decode ? bandwidth : peak);
    const double host_reached = settings.host ? (decode ? bytes : flops) / h.median : 0;
    const bool right = error < 5e-4;
    const double ratio = settings.host ? h.median / o.median : 0;
    std::printf(settings.csv ? "%lld,%lld,%lld,%lld,%s,%.4f,%.4f,%.4f,%.4f,%.4f,%.4f,%.2f,%.2f,%s,%.1f,%.2f,%.1e,%s\n"
                             : "| %lld | %lld | %lld | %lld | %s | %.3f (%.3f–%.3f) | %.3f (%.3f–%.3f) | %.1f× | %.1f "
                               "%s | %.0f%% | %.1f | %.0e%s |\n",
                static_cast<long long>(s.n_tokens), static_cast<long long>(s.d), static_cast<long long>(s.group),
                static_cast<long long>(s.n_keys), s.type.c_str(), h.median * 1e3, h.min * 1e3, h.max * 1e3,
                o.median * 1e3, o.min * 1e3, o.max * 1e3, ratio, reached / 1e9, decode ? "GB/s" : "GFLOP/s", share,
                host_reached / 1e9, error, right ? "" : " WRONG");
    std::fflush(stdout);
    return right;
}

constexpr const char* kUsage =
    "bench_attention: Atlas's attention beside the host CPU backend's, same tensors, same run\n"
    "  --d 64,128 --group 4,8 --keys 4096,8192,16384 --tokens 1,512 --types f16,q8_0,q4_0   the cases\n"
    "  --heads-kv 8  --threads 2  --repeats 5  --host-limit 4 (seconds per case)  --csv  --no-host\n";

Settings parse(int argc, char** argv) {
    Settings s;
    for (int i = 1; i < argc; ++i) {
        const std::string name = argv[i];
        const char* value = i + 1 < argc ? argv[i + 1] : "";
        if (name == "--csv") {
            s.csv = true;
            continue;
        }
        if (name == "--no-host") {
            s.host = false;
            continue;
        }
        ++i;
        if (name == "--d")
            s.d = list<int64_t>(value);
        else if (name == "--group")
            s.group = list<int64_t>(value);
        else if (name == "--keys")
            s.keys = list<int64_t>(value);
        else if (name == "--tokens")
            s.tokens = list<int64_t>(value);
        else if (name == "--types")
            s.types = list<std::string>(value);
        else if (name == "--heads-kv")
            s.heads_kv = std::atoll(value);
        else if (name == "--threads")
            s.threads = std::atoi(value);
        else if (name == "--repeats")
            s.repeats = std::atoi(value);
        else if (name == "--host-limit")
            s.host_limit = std::atof(value);
        else {
            std::fputs(kUsage, name == "--help" ? stdout : stderr);
            std::exit(name == "--help" ? 0 : 2);
        }
    }
    return s;
}

}  // namespace

int main(int argc, char** argv) {
    const Settings settings = parse(argc, argv);
    unsetenv("GGML_BACKEND_PATH");  // the host's own operation, not ours, is what this compares with
    ggml_backend_load_all();
    const double bandwidth = read_bandwidth(settings.threads);
    const double peak = f32_peak(settings.threads);
    if (settings.csv) {
        std::puts(
            "tokens,d,group,keys,type,host_ms,host_min,host_max,atlas_ms,atlas_min,atlas_max,ratio,reached,unit,"
            "percent_of_limit,"
            "host_reached,nmse,verdict");
    } else {
        std::printf(
            "%d threads, variant %s: reads %.1f GB/s, f32 peak %.0f GFLOP/s (both measured now). Times in ms: median "
            "(min–max).\n\n",
            settings.threads, atlas::kernels::kernel_variant(), bandwidth / 1e9, peak / 1e9);
        std::puts(
            "| tokens | d | GQA | keys | KV | host | Atlas | ratio | Atlas reaches | of limit | host reaches | NMSE |\n"
            "|---|---|---|---|---|---|---|---|---|---|---|---|");
    }
    bool right = true;
    for (const int64_t tokens : settings.tokens) {
        for (const std::string& type : settings.types) {
            for (const int64_t d : settings.d) {
                for (const int64_t group : settings.group) {
                    for (const int64_t keys : settings.keys)
                        right &= bench({d, group, settings.heads_kv, keys, tokens, type}, settings, bandwidth, peak);
                }
            }
        }
    }
    return right ? 0 : 1;
}
