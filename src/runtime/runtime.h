#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>

#include "attention/stats.h"
#include "base/options.h"
#include "kv/budget.h"
#include "kv/pager.h"
#include "kv/write_clock.h"
#include "runtime/activity.h"
#include "runtime/metrics_server.h"
#include "runtime/participation.h"
#include "runtime/pools.h"
#include "runtime/ram_shares.h"
#include "runtime/registry.h"
#include "side_car/use.h"
#include "weights/format_store.h"
#include "weights/streamer.h"

namespace atlas::side_car {
class Calibration;
}

namespace atlas::runtime {

class Session;

/**
 * What Atlas holds beside tensors: options, budgets, statistics, side-cars in use, the calibration under way, the sessions that live. One per loaded
 * plug-in (plugin_runtime.h); two in one process do not know of each other. Thread-safe.
 *
 * Its end. Sessions share its ownership, so it ends when the last of them and whoever made it have let go, in whatever order: a host may free contexts as
 * late as in static destructors. A session that ends hands in its statistics, which are written; then end, in this order: the list of sessions, empty by
 * then; the side-car, which memories of sessions shared; the statistics; the streamer of weights and their formats; pager, write clock and budget of the KV caches; the options. Page tables hold references
 * to clock and budget, so whoever makes them keeps the runtime: the plug-in's never ends.
 */
class Runtime {
public:
    /** `options` as settle_options() gives them. */
    explicit Runtime(Options options);
    ~Runtime() = default;
    Runtime(const Runtime&) = delete;
    Runtime& operator=(const Runtime&) = delete;

    const Options& options() const { return options_; }
    /** What the KV caches share: the RAM that ATLAS_KV_RAM or ATLAS_RAM allows, and the order of writes. */
    kv::Budget& kv_budget() { return kv_budget_; }
    kv::WriteClock& write_clock() { return write_clock_; }
    /** What moves pages between memory and disk; nullptr without ATLAS_KV_DISK. */
    kv::Pager* pager() { return pager_.get(); }
    /** What runtimes of the C API are allowed. */
    Pools& pools() { return pools_; }
    /** What contexts did and hold, if is_watched(). */
    Activity& activity() { return activity_; }
    /** Whether somebody may ask for metrics (ATLAS_METRICS). */
    bool is_watched() const { return metrics_ != nullptr; }
    /**
     * Answers whoever asks for metrics, where the options want it. An address that is none is an error; one that cannot be had is said in the log. Throws std::bad_alloc.
     */
    Status open_metrics();
    void close_metrics() noexcept { metrics_.reset(); }
    /** What reads weights that memory has no room for; nullptr without ATLAS_WEIGHTS_RAM and ATLAS_RAM. */
    weights::Streamer* streamer() const { return streamer_.get(); }
    /** What splits ATLAS_RAM; nullptr without it. */
    RamShares* ram_shares() const { return ram_shares_.get(); }
    /** What rounds weights while they are loaded; nullptr without ATLAS_WEIGHT_FORMAT. */
    weights::FormatStore* formats() const { return formats_.get(); }
    /**
     * Opens what the options ask for, before any table is made: the disk tier, the streamer of weights, their formats. Errors: of the folder, of
     * ATLAS_RAM, of ATLAS_WEIGHTS_RAM, of ATLAS_WEIGHT_FORMAT, of ATLAS_TEST_FAULTS. Throws std::bad_alloc.
     */
    Status open_disk();
    attention::Stats& stats() { return stats_; }
    side_car::SideCarUse& side_car() { return side_car_; }
    const Registry& sessions() const { return sessions_; }
    /** For sessions alone: `session` begins, or ends and hands in what was absent. */
    void enter(Session* session);
    void leave(Session* session);

    /** The calibration under way, or null; sessions tell it their geometry and their memories' probes. To be changed only while nothing is computed. */
    side_car::Calibration* calibration() const { return calibration_.load(std::memory_order_relaxed); }
    /** `calibration` is under way from here on, until it is ended; false while another one is. */
    bool begin_calibration(side_car::Calibration* calibration);
    /** Nothing for one that is not under way. */
    void end_calibration(side_car::Calibration* calibration);

    /** What took no part, of the sessions that ended and of those that live. */
    AbsenceCounts absences() const;

    /**
     * {"layers": […], "absent": […], "kv": {…}, "weights": {…}, "formats": {…}}: attention::Stats::json(), AbsenceCounts::json(), with a disk
     * kv::Pager::json(), with ATLAS_WEIGHTS_RAM weights::Streamer::json(), with ATLAS_WEIGHT_FORMAT weights::FormatStore::json(),
     * with ATLAS_RAM "weights" and "ram", RamShares::json().
     */
    std::string statistics() const;
    /** Writes statistics() where ATLAS_STATS wants it, if there is anything to say. Called when a session ends, and at the end of the process for those that never do. */
    void write_statistics() const noexcept;

private:
    Status open_streamer();

    const Options options_;
    kv::Budget kv_budget_;
    kv::WriteClock write_clock_;
    const std::shared_ptr<io::DiskQueue> disk_queue_ = std::make_shared<io::DiskQueue>();  // of KV cache and weights
    std::unique_ptr<kv::Pager> pager_;
    Pools pools_{kv_budget_, pager_};
    std::unique_ptr<weights::Streamer> streamer_;
    std::unique_ptr<weights::FormatStore> formats_;
    std::unique_ptr<RamShares> ram_shares_;  // of all above
    attention::Stats stats_;
    mutable std::mutex mutex_;
    AbsenceCounts absences_;  // of sessions that ended; guarded by mutex_
    side_car::SideCarUse side_car_;
    std::atomic<side_car::Calibration*> calibration_{nullptr};
    Registry sessions_;
    Activity activity_;
    std::unique_ptr<MetricsServer> metrics_;       // ends first: it reads all of the above
    mutable std::atomic<bool> unwritable_{false};  // the statistics' file, which has been said
};

}  // namespace atlas::runtime
