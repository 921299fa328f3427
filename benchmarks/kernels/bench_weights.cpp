// Times products with quantised weights, Atlas's beside the host CPU backend's on the same numbers in the same run, and compares their results.
#include <ggml-backend.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "bench.h"
#include "host_product.h"
#include "kernels/kernel_table.h"
#include "machine_limits.h"

namespace {

using namespace atlas;

struct Settings {
    std::vector<std::string> types{"q8_0", "q4_0", "q4_K",   "q6_K",   "f16",  "bf16", "q5_K",  "q4_1",
                                   "q5_0", "q5_1", "iq4_nl", "iq4_xs", "q2_K", "q3_K", "mxfp4", "f32"};
    std::vector<int64_t> columns{1, 512};
    std::vector<int64_t> threads{1, 2};
    int64_t cols = 4096;
    int64_t rows = 4096;      // of products with many columns
    int64_t megabytes = 512;  // of weights with few columns: beyond every cache
    int repeats = 5;
    bool host = true;
};

kernels::WeightType weight_type(const std::string& name) {
    for (int i = 0; i < kernels::kWeightTypeCount; ++i) {
        const auto type = static_cast<kernels::WeightType>(i);
        if (name == kernels::weight_type_info(type).name) return type;
    }
    std::fprintf(stderr, "bench_weights: unknown type %s\n", name.c_str());
    std::exit(2);
}

/** What the plug-in does per operation: quantise the columns, then the product, panels shared out over threads. */
class AtlasProduct {
public:
    AtlasProduct(const HostProduct& host, const std::string& type, int64_t rows, int64_t cols, int64_t n, int threads)
        : threads_(threads), n_(n), rows_(rows), out_(static_cast<size_t>(rows * n)) {
        const kernels::WeightType of = weight_type(type);
        const kernels::ActivationType activations = kernels::weight_type_info(of).activations;
        const size_t bytes = kernels::activation_bytes(activations, cols, n);
        quantised_ = static_cast<std::byte*>(std::aligned_alloc(64, bytes));
        std::memset(quantised_, 0, bytes);
        args_ = {activations, cols, host.x().data(), static_cast<size_t>(cols) * sizeof(float), quantised_};
        product_ = {.weights = {of, reinterpret_cast<const std::byte*>(host.weights().data()), rows, cols,
                                kernels::weight_row_bytes(of, cols)},
                    .activations = quantised_,
                    .n = n,
                    .out = out_.data(),
                    .out_stride = static_cast<size_t>(rows)};
    }
    ~AtlasProduct() { std::free(quantised_); }
    AtlasProduct(const AtlasProduct&) = delete;
    AtlasProduct& operator=(const AtlasProduct&) = delete;

    void run() {
        const int64_t panels = (rows_ + kernels::kWeightPanel - 1) / kernels::kWeightPanel;
#pragma omp parallel num_threads(threads_)
        {
            const int64_t thread = omp_get_thread_num(), count = omp_get_num_threads();
            kernels::quantise_activations(args_, n_ * thread / count, n_ * (thread + 1) / count);
#pragma omp barrier
            kernels::multiply_weights(product_, panels * thread / count * kernels::kWeightPanel,
                                      std::min(rows_, panels * (thread + 1) / count * kernels::kWeightPanel));
        }
    }
    const std::vector<float>& out() const { return out_; }

private:
    int threads_;
    int64_t n_, rows_;
    std::byte* quantised_;
    std::vector<float> out_;
    kernels::ActivationArgs args_{};
    kernels::WeightProduct product_{};
};

double nmse(const std::vector<float>& a, const std::vector<float>& b) {
    double error = 0, power = 0;
    for (size_t i = 0; i < a.size(); ++i) {
        error += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
        power += static_cast<double>(b[i]) * b[i];
    }
    return error / power;
}

/** The limits of one number of threads. */
struct Limits {
    double bandwidth, vectors, tiles;
};

bool bench(const Settings& s, const std::string& type, int64_t n, int threads, const Limits& limits) {
    const bool few = n <= 16;
    const size_t row = kernels::weight_row_bytes(weight_type(type), s.cols);
    const int64_t rows = few ? static_cast<int64_t>((static_cast<size_t>(s.megabytes) << 20) / row / 64 * 64) : s.rows;
    HostProduct host(type, rows, s.cols, n, threads, s.host);
    AtlasProduct ours(host, type, rows, s.cols, n, threads);
    std::vector<double> host_times, our_times;
    ours.run();
    if (s.host) host.run();
    for (int i = 0; i < s.repeats; ++i) {
        if (s.host) host_times.push_back(timed([&] { host.run(); }));
        our_times.push_back(timed([&] { ours.run(); }));
    }
    const double error = s.host ? nmse(ours.out(), host.out()) : 0;
    const double bytes = static_cast<double>(row) * static_cast<double>(rows);
    const double operations = 2.0 * static_cast<double>(rows) * static_cast<double>(s.cols) * static_cast<double>(n);
    const double work = few ? bytes : operations;
    const double o = median(our_times), h = median(host_times);
    const auto percent = [&](double limit) { return std::to_string(std::lround(100 * work / o / limit)) + "%"; };
    std::string share = percent(few ? limits.bandwidth : limits.vectors);
    if (!few && limits.tiles > 0) share += " / " + percent(limits.tiles);
    // Results differ by the order of sums, and by the host's shortcuts of some types.
    const bool right = error < 1e-6;
    std::printf("| %s | %lld | %d | %.1f (%.1f–%.1f) %s | %s | %.1f | %.2f× | %s | %.0e%s |\n", type.c_str(),
                static_cast<long long>(n), threads, work / o / 1e9,
                work / *std::max_element(our_times.begin(), our_times.end()) / 1e9,
                work / *std::min_element(our_times.begin(), our_times.end()) / 1e9, few ? "GB/s" : "Gop/s",
                share.c_str(), s.host ? work / h / 1e9 : 0, s.host ? h / o : 0, s.host ? host.buffer() : "", error,
                right ? "" : " WRONG");
    std::fflush(stdout);
    return right;
}

constexpr const char* kUsage =
    "bench_weights: products with quantised weights beside the host CPU backend's, same numbers, same run\n"
    "  --types q8_0,q4_0,…  --n 1,512 (columns)  --threads 1,2  --cols 4096\n"
    "  --rows 4096 (more than 16 columns)  --megabytes 512 (of weights, up to 16 columns)  --repeats 5  --no-host\n";

Settings parse(int argc, char** argv) {
    Settings s;
    for (int i = 1; i < argc; ++i) {
        const std::string name = argv[i];
        const char* value = i + 1 < argc ? argv[i + 1] : "";
        if (name == "--no-host") {
            s.host = false;
            continue;
        }
        ++i;
        if (name == "--types")
            s.types = list<std::string>(value);
        else if (name == "--n")
            s.columns = list<int64_t>(value);
        else if (name == "--threads")
            s.threads = list<int64_t>(value);
        else if (name == "--cols")
            s.cols = std::atoll(value);
        else if (name == "--rows")
            s.rows = std::atoll(value);
        else if (name == "--megabytes")
            s.megabytes = std::atoll(value);
        else if (name == "--repeats")
            s.repeats = std::atoi(value);
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
    if (const char* variant = std::getenv("ATLAS_KERNEL")) {
        if (const Status status = kernels::select_kernel_variant(variant); !status.is_ok()) {
            std::fprintf(stderr, "bench_weights: %s\n", status.to_string().c_str());
            return 1;
        }
    }
    bool right = true;
    std::printf("variant %s; percentages are of the limits measured in this run\n\n", kernels::kernel_variant());
    std::vector<Limits> limits;
    for (const int64_t threads : settings.threads) {
        const int count = static_cast<int>(threads);
        const MatrixPeaks peaks = matrix_peaks(count);
        limits.push_back({read_bandwidth(count), peaks.int8, peaks.tiles});
        std::printf(
            "%d threads: reads %.1f GB/s; f32 %.0f GFLOP/s; int8 %.0f Gop/s and bf16 %.0f GFLOP/s in vectors; "
            "int8 %.0f Gop/s in tiles\n",
            count, limits.back().bandwidth / 1e9, f32_peak(count) / 1e9, peaks.int8 / 1e9, peaks.bf16 / 1e9,
            peaks.tiles / 1e9);
    }
    std::puts(
        "\nOf limit: of reads, up to 16 columns; else of int8 in vectors / in tiles.\n\n| type | columns | threads | "
        "Atlas | of limit | host | ratio | host's buffer | NMSE |\n"
        "|---|---|---|---|---|---|---|---|---|");
    for (const int64_t n : settings.columns) {
        for (size_t t = 0; t < settings.threads.size(); ++t) {
            for (const std::string& type : settings.types)
                right &= bench(settings, type, n, static_cast<int>(settings.threads[t]), limits[t]);
        }
    }
    return right ? 0 : 1;
}
