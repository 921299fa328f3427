// A host with one context in sparse mode: exit_host main|static|never frees it in main, in static destruction, or not at all. What it asks of Atlas beside
// that stands in the environment.
#include <cmath>
#include <cstring>
#include <memory>

#include "plugin.h"

namespace {

using atlas::host::test::Bench;

// Made before the plug-in is loaded, so it ends after the plug-in's own static objects.
std::unique_ptr<Bench> g_bench;
Bench* g_leaked = nullptr;

bool compute(Bench& bench) {
    constexpr int64_t kHead = 64, kHeadsKv = 2, kHeads = 4, kCells = 1024;
    ggml_tensor* k = bench.tensor("cache_k_l0", GGML_TYPE_F16, {kHead * kHeadsKv, kCells});
    ggml_tensor* v = bench.tensor("cache_v_l0", GGML_TYPE_F16, {kHead * kHeadsKv, kCells});
    ggml_tensor* q = bench.tensor("q", GGML_TYPE_F32, {kHead, 1, kHeads});
    const auto heads = [&](ggml_tensor* cache) {
        return ggml_view_4d(bench.context(), cache, kHead, kCells, kHeadsKv, 1, cache->nb[1],
                            ggml_row_size(cache->type, kHead), cache->nb[1] * kCells, 0);
    };
    ggml_tensor* out = ggml_flash_attn_ext(bench.context(), q, heads(k), heads(v), nullptr,
                                           1.0f / std::sqrt(float{kHead}), 0.0f, 0.0f);
    if (!bench.allocate()) return false;
    Bench::set(k, atlas::host::test::noise(static_cast<size_t>(ggml_nelements(k)), 1));
    Bench::set(v, atlas::host::test::noise(static_cast<size_t>(ggml_nelements(v)), 2));
    Bench::set(q, atlas::host::test::noise(static_cast<size_t>(ggml_nelements(q)), 3));
    return bench.compute(out) == GGML_STATUS_SUCCESS;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2 || !atlas::host::test::load_plugin()) return 2;
    ggml_backend_dev_t device = ggml_backend_dev_by_name("ATLAS0");
    if (!device) return 2;
    auto bench = std::make_unique<Bench>(device);
    if (!compute(*bench)) return 1;
    if (std::strcmp(argv[1], "static") == 0) g_bench = std::move(bench);
    if (std::strcmp(argv[1], "never") == 0) g_leaked = bench.release();
    return 0;
}
