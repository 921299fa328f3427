#include "settings.h"

namespace atlas::tool {

const std::vector<Setting>& settings() {
    static const std::vector<Setting> all = {
        {"atlas-device", "ATLAS_DEVICE",
         "owner (Atlas keeps the KV cache, default) or accel (it stays in the CPU's buffers)", nullptr},
        {"atlas-kernel", "ATLAS_KERNEL", "force a kernel variant: auto, reference, avx2, avx512, avx512_bf16, neon",
         nullptr},
        {"atlas-kv-ram", "ATLAS_KV_RAM", "budget of the KV cache in RAM, for example 8G", nullptr},
        {"atlas-threads", "ATLAS_THREADS", "threads of Atlas's operations (default: what the program sets)", nullptr},
        {"atlas-log-level", "ATLAS_LOG_LEVEL", "trace, debug, info, warn (default), error or off", nullptr},
        {"atlas-debug", "ATLAS_DEBUG", "the same as --atlas-log-level debug", "1"},
        {"atlas-mode", "ATLAS_MODE", "attention over long contexts: exact (default), window, sparse", nullptr},
        {"atlas-threshold", "ATLAS_THRESHOLD", "queries that see no more keys than this are exact (4096)", nullptr},
        {"atlas-sinks", "ATLAS_SINKS", "first keys, always read (64)", nullptr},
        {"atlas-window", "ATLAS_WINDOW", "most recent keys, always read (512)", nullptr},
        {"atlas-block-share", "ATLAS_BLOCK_SHARE",
         "share of a query's attention that a block must hold to be read, above the floor (0.002)", nullptr},
        {"atlas-budget", "ATLAS_BUDGET", "share of the visible keys to select at most, 0 to 1 (0.125)", nullptr},
        {"atlas-budget-floor", "ATLAS_BUDGET_FLOOR", "selected keys at least (512)", nullptr},
        {"atlas-budget-cap", "ATLAS_BUDGET_CAP", "selected keys at most (3072)", nullptr},
        {"atlas-epsilon", "ATLAS_EPSILON",
         "share of a query's attention that may be left to the estimate, above the floor (0)", nullptr},
        {"atlas-reach-share", "ATLAS_REACH_SHARE", "share of the blocks chosen by what one key could reach (0.5)",
         nullptr},
        {"atlas-first-layers", "ATLAS_FIRST_LAYERS", "how many of the first layers get a larger budget (1)", nullptr},
        {"atlas-first-factor", "ATLAS_FIRST_FACTOR", "how many times the budget they get (1)", nullptr},
        {"atlas-far", "ATLAS_FAR", "estimate of what is not read: drop, first, second, bessel (default)", nullptr},
        {"atlas-alike", "ATLAS_ALIKE", "0: blocks of consecutive keys instead of alike ones (1)", nullptr},
        {"atlas-value-slope", "ATLAS_VALUE_SLOPE", "0: the estimate's values do not follow the query (1)", nullptr},
        {"atlas-block", "ATLAS_BLOCK", "keys per block of the index: 16, 32 (default), 64", nullptr},
        {"atlas-tile", "ATLAS_TILE", "query tokens that share a selection in prefill (16)", nullptr},
        {"atlas-beam", "ATLAS_BEAM", "blocks scored one by one (512)", nullptr},
        {"atlas-probes", "ATLAS_PROBES", "far blocks read per KV head to check the estimate (2)", nullptr},
        {"atlas-probe-limit", "ATLAS_PROBE_LIMIT",
         "error of the estimate, natural log, above which the budget doubles (1)", nullptr},
        {"atlas-seed", "ATLAS_SEED", "of the probes (1)", nullptr},
        {"atlas-stats", "ATLAS_STATS", "statistics per layer as JSON at exit: =FILE, or without a value into the log",
         "1"},
        {"atlas-memory", "ATLAS_MEMORY", "correct the estimate by a memory that learns while the model runs", "1"},
        {"atlas-memory-mode", "ATLAS_MEMORY_MODE",
         "correct (the far estimate, default) or blend (attention and memory in a fixed ratio)", nullptr},
        {"atlas-side-car", "ATLAS_SIDE_CAR",
         "memories to start from (default: model.atlas.gguf beside the model, if it is there), or none", nullptr},
        {"atlas-model", "ATLAS_MODEL", "the model that they are checked against (default: what -m names)", nullptr},
        {"atlas-memory-kind", "ATLAS_MEMORY_KIND", "least_squares (default), linear, deep, gated", nullptr},
        {"atlas-blend-ratio", "ATLAS_BLEND_RATIO", "ceiling of a memory's gate, 0 to 1 (1)", nullptr},
        {"atlas-blend-dynamic", "ATLAS_BLEND_DYNAMIC", "0: the gate is its ceiling whatever the errors (1)", nullptr},
        {"atlas-warm-up", "ATLAS_WARM_UP", "tokens before a gate may open (512)", nullptr},
        {"atlas-test-time", "ATLAS_TEST_TIME", "0: memories do not learn (1)", nullptr},
        {"atlas-memory-budget", "ATLAS_MEMORY_BUDGET", "bytes of all memories of a context (300M)", nullptr},
        {"atlas-memory-probe", "ATLAS_MEMORY_PROBE", "tokens per observation of a KV head (32)", nullptr},
        {"atlas-memory-probe-keys", "ATLAS_MEMORY_PROBE_KEYS", "keys that an observation reads at most (4096)",
         nullptr},
        {"atlas-feature-type", "ATLAS_FEATURE_TYPE", "identity, polynomial (default), exponential, fourier, rbf",
         nullptr},
        {"atlas-feature-degree", "ATLAS_FEATURE_DEGREE", "of polynomial and exponential features (1)", nullptr},
        {"atlas-memory-hidden", "ATLAS_MEMORY_HIDDEN", "hidden width of deep and gated memories (128)", nullptr},
        {"atlas-memory-chunk", "ATLAS_MEMORY_CHUNK", "observations per update of the Omega rule (16)", nullptr},
        {"atlas-memory-step", "ATLAS_MEMORY_STEP", "learning rate of the Omega rule (0.01)", nullptr},
        {"atlas-adaptive-window", "ATLAS_ADAPTIVE_WINDOW",
         "1 (default): heads that err more read more keys, others fewer", nullptr},
        {"atlas-memory-precision", "ATLAS_MEMORY_PRECISION", "of Newton-Schulz' products: f32 (default), bf16",
         nullptr},
        {"atlas-omega-window", "ATLAS_OMEGA_WINDOW", "observations that the Omega rule looks back at (16)", nullptr},
        {"atlas-omega-alpha", "ATLAS_OMEGA_ALPHA", "weight of an observation one step older (1)", nullptr},
        {"atlas-muon-iterations", "ATLAS_MUON_ITERATIONS", "Newton-Schulz steps, 0 for plain momentum (5)", nullptr},
    };
    return all;
}

const Setting* find_setting(std::string_view flag) {
    for (const Setting& setting : settings()) {
        if (flag == setting.flag) return &setting;
    }
    return nullptr;
}

std::string setting_names() {
    std::string names;
    for (const Setting& setting : settings()) names += (names.empty() ? "--" : ", --") + std::string(setting.flag);
    return names;
}

}  // namespace atlas::tool
