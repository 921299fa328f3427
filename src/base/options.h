#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "base/status.h"

namespace atlas {

enum class DeviceMode { kOwner, kAccel };

enum class AttentionMode {
    kExact,   ///< every key, the plain kernels
    kWindow,  ///< sinks and window only: the control that fails at retrieval
    kSparse,  ///< sinks, window, selected blocks, and an estimate of the rest
};

/** How the log mass of a block that is not read is estimated; docs/attention.md has the equations. */
enum class FarEstimate { kDrop, kFirst, kSecond, kBessel };

/** What the planner of long-context attention may do. Keys are cells of the KV cache. */
struct SparseOptions {
    /** ATLAS_MODE=exact|window|sparse. Exact: what a program computes does not change unless it is asked to (docs/attention.md has what sparse gives). */
    AttentionMode mode = AttentionMode::kExact;
    /** ATLAS_FAR=drop|first|second|bessel: estimate of what is not read. */
    FarEstimate estimate = FarEstimate::kBessel;
    /** ATLAS_BLOCK=16|32|64: keys per block of the index. */
    int block_keys = 32;
    /** ATLAS_THRESHOLD=0…2^30: queries that see no more keys than this are exact. */
    int threshold = 4096;
    /** ATLAS_SINKS=0…2^20: first visible keys, always exact; rounded up to pages of 64. */
    int sinks = 64;
    /** ATLAS_WINDOW=0…2^30: most recently written keys, always exact; rounded up to pages of 64. */
    int window = 512;
    /** ATLAS_BLOCK_SHARE=0…1: above the floor, only blocks are selected that hold at least this share of a query's attention. */
    double block_share = 0.002;
    /** ATLAS_BUDGET=0…1: share of the visible keys to select at most, between floor and cap. */
    double fraction = 0.125;
    /** ATLAS_BUDGET_FLOOR=0…2^30: selected keys at least. */
    int floor = 512;
    /** ATLAS_BUDGET_CAP=0…2^30: selected keys at most, not below the floor. */
    int cap = 3072;
    /** ATLAS_EPSILON=0…1: above the floor, selection stops when this share of a query's attention is left to the estimate. */
    double epsilon = 0.0;
    /** ATLAS_ALIKE=0|1: whether a block holds alike keys out of up to 16 blocks' cells, or consecutive ones. */
    bool alike = true;
    /** ATLAS_VALUE_SLOPE=0|1: whether the estimate's values follow the query (attention/value_slope.h). */
    bool value_slope = true;
    /** ATLAS_REACH_SHARE=0…1: share of the selected blocks chosen by what a single key could reach, the rest by mass. */
    double reach_share = 0.5;
    /** ATLAS_FIRST_LAYERS=0…1024: layers 0 … n−1 get ATLAS_FIRST_FACTOR=1…100 times the budget. */
    int first_layers = 1;
    double first_factor = 1.0;
    /** ATLAS_TILE=1…512: query tokens that share a selection in prefill. */
    int tile = 16;
    /** ATLAS_BEAM=64…2^20: blocks scored one by one; of more, only those inside the best super-blocks are. */
    int beam = 512;
    /** ATLAS_PROBES=0…64: far blocks read per KV head to check the estimate, when decoding. */
    int probes = 2;
    /** ATLAS_PROBE_LIMIT=0…100: |ln(probed mass / estimated mass)| above which the call's budget doubles. */
    double probe_limit = 1.0;
    /** ATLAS_SEED=0…2^31−1: of the probes. */
    int seed = 1;
    /** ATLAS_STATS=<file>|1: statistics as JSON when the process ends, into a file or the log (level info). */
    std::string stats;
};

/** Features of a query before the memory sees it, in the order of memory::FeatureType. */
enum class MemoryFeatures { kIdentity, kPolynomial, kExponential, kFourier, kRbf };

/** What learns: least squares is the Omega rule's limit for a linear memory and an unlimited window. */
enum class FarMemoryKind { kLeastSquares, kLinear, kDeep, kGated };

enum class MemoryMode {
    kCorrect,  ///< learns what the far estimate gets wrong (ATLAS_MODE=sparse)
    kBlend,  ///< learns k → v of what left the exact part; output (1 − r)·attention + r·M(q) (ATLAS_MODE=sparse or window)
};

/** Test-time memory beside attention over long contexts; docs/memory.md. */
struct MemoryOptions {
    /** ATLAS_MEMORY=0|1. */
    bool enabled = false;
    /** ATLAS_MEMORY_MODE=correct|blend; blend: blend_ratio is 0.1, kind deep and chunk 64 unless they are set too. */
    MemoryMode mode = MemoryMode::kCorrect;
    /** ATLAS_BLEND_RATIO=0…1: correct: ceiling of the gate, the share of the memory's correction that is used (measured: docs/memory.md); blend: r. */
    double blend_ratio = 1.0;
    /** ATLAS_BLEND_DYNAMIC=0|1: the gate follows held-out errors; 0: it is the ceiling after the warm-up. */
    bool dynamic_blend = true;
    /** ATLAS_WARM_UP=0…2^30: tokens before the gate may rise. */
    int warm_up = 512;
    /** ATLAS_TEST_TIME=0|1: whether memories learn. */
    bool test_time = true;
    /** ATLAS_MEMORY_BUDGET=<bytes>: of all memories of a context; the least recently used go first, further heads go without. */
    uint64_t budget_bytes = uint64_t{300} << 20;
    /** ATLAS_MEMORY_KIND=least_squares|linear|deep|gated. */
    FarMemoryKind kind = FarMemoryKind::kLeastSquares;
    /** ATLAS_FEATURE_TYPE=identity|polynomial|exponential|fourier|rbf. */
    MemoryFeatures features = MemoryFeatures::kPolynomial;
    /** ATLAS_FEATURE_DEGREE=1…3: of polynomial and exponential features. */
    int degree = 1;
    /** ATLAS_MEMORY_HIDDEN=1…1024: width of the memory's hidden layer. */
    int hidden = 128;
    /** ATLAS_OMEGA_WINDOW=1…4096: observations that the Omega rule's loss looks back at. */
    int omega_window = 16;
    /** ATLAS_OMEGA_ALPHA=0…1: weight of an observation one step older. */
    double omega_alpha = 1.0;
    /** ATLAS_MUON_ITERATIONS=0…64: Newton–Schulz steps; 0: plain momentum. */
    int muon_iterations = 5;
    /** ATLAS_MEMORY_PRECISION=f32|bf16: bf16 rounds the factors of Newton–Schulz' products; sums, parameters and momentum are f32 in both. */
    bool bf16 = false;
    /** ATLAS_MEMORY_STEP=0…1000: learning rate. */
    double step = 0.01;
    /** ATLAS_MEMORY_CHUNK=1…4096: observations per update. */
    int chunk = 16;
    /**
     * ATLAS_ADAPTIVE_WINDOW=0|1, of kCorrect: heads whose held-out errors are larger read more keys exactly, others fewer, all together as many as without
     * (attention::AdaptiveWindow).
     */
    bool adaptive_window = true;
    /** ATLAS_MEMORY_PROBE=1…2^20: tokens per observation of a KV head; a quarter until the 128th, half until the 256th. */
    int probe_every = 32;
    /** ATLAS_MEMORY_PROBE_KEYS=0…2^30: keys that an observation reads at most, a random sample of more; 0: all. */
    int probe_keys = 4096;

    bool operator==(const MemoryOptions&) const = default;
};

/**
 * Everything an environment variable can set. This is the only place that reads the environment; each field names its variable,
 * its default and what is allowed. docs/options.md lists the same.
 */
struct Options {
    /** ATLAS_DEVICE=owner|accel: which device is registered. */
    DeviceMode device = DeviceMode::kOwner;
    /** ATLAS_LOG_LEVEL=trace|debug|info|warn|error|off; ATLAS_DEBUG=1 lowers it to debug. 0 = trace … 4 = error, 6 = off. */
    int log_level = 3;
    /** ATLAS_KERNEL=auto|reference|avx2|avx512|avx512_bf16|neon: forces a kernel variant; loading fails when the CPU lacks it. */
    std::string kernel = "auto";
    /** ATLAS_THREADS=0…1024: threads of Atlas's parallel regions; 0 = what the host sets. */
    int threads = 0;
    /** ATLAS_KV_RAM=<bytes, suffix K, M, G allowed>: budget of the RAM tier; 0 = no limit. */
    uint64_t kv_ram_bytes = 0;
    /** ATLAS_PAGE_ALL=0|1: test switch, every 2-D to 4-D tensor that is not a compute buffer is paged, whatever its name. */
    bool page_all = false;
    /** ATLAS_SIDE_CAR=<file>|none: where memories start (docs/side-car.md). Given, and ATLAS_MEMORY not: memory is on. */
    std::string side_car;
    /** ATLAS_MODEL=<file>: the model, against which a side-car is checked; the GGUF files that the process has mapped or open if not given. */
    std::string model;
    SparseOptions sparse;
    MemoryOptions memory;
};

/** Parses options; `get` returns the value of a variable or nullopt. Malformed or contradictory values name variable, value, allowed. */
Status parse_options(const std::function<std::optional<std::string>(const char*)>& get, Options* out);

/** The process's options, parsed from the environment at first use. On error the defaults; see options_status(). */
const Options& options();

/** Whether the environment could be parsed; the plug-in refuses to load when it could not. */
const Status& options_status();

}  // namespace atlas
