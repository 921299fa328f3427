#include "runtime/runtime.h"

#include <exception>
#include <fstream>
#include <string>
#include <utility>

#include "base/log.h"
#include "runtime/metrics.h"
#include "runtime/session.h"

namespace atlas::runtime {

namespace {

/** Of the KV caches, before models and caches are there: all of ATLAS_RAM. */
uint64_t first_kv_limit(const Options& options) {
    return options.ram_bytes > 0 ? options.ram_bytes : options.kv_ram_bytes;
}

/** What a line about this share of ATLAS_RAM, or about its own number, names. */
std::string share(const Options& options, const char* own, const char* of_ram) {
    return options.ram_bytes > 0 ? std::string("ATLAS_RAM's share for ") + of_ram : own;
}

}  // namespace

Runtime::Runtime(Options options)
    : options_(std::move(options)),
      kv_budget_(first_kv_limit(options_), share(options_, "ATLAS_KV_RAM", "the KV cache")),
      side_car_(options_.side_car, options_.model, options_.memory.budget_bytes) {}

Status Runtime::open_streamer() {
    const uint64_t ram = options_.ram_bytes > 0 ? options_.ram_bytes : options_.weights_ram_bytes;
    if (ram == 0 || streamer_) return Status::ok();
    std::string ram_text;
    (void)get_option(options_, "ATLAS_RAM", &ram_text);
    if (options_.ram_bytes > 0 && ram < kLeastRam)
        return Status::invalid_argument("ATLAS_RAM=" + ram_text + ": allowed is 0, or " + std::to_string(kLeastRam) +
                                        " bytes and more");
    weights::StreamerSettings settings{ram, options_.test_faults};
    settings.queue = disk_queue_;
    settings.name = share(options_, "ATLAS_WEIGHTS_RAM", "weights");
    return weights::Streamer::open(settings, &streamer_);
}

Status Runtime::open_disk() {
    const bool streams = options_.weights_ram_bytes > 0 || options_.ram_bytes > 0;
    if (options_.kv_disk.empty() && !streams && !options_.test_faults.empty())
        return Status::invalid_argument("ATLAS_TEST_FAULTS=" + options_.test_faults +
                                        ": allowed is NAME=SHARE,… together with ATLAS_KV_DISK, ATLAS_WEIGHTS_RAM or "
                                        "ATLAS_RAM, whose transfers are to fail");
    if (Status status = open_streamer(); !status.is_ok()) return status;
    if (!options_.kv_disk.empty() && !pager_) {
        std::unique_ptr<kv::DiskTier> disk;
        const kv::DiskOptions options{options_.kv_disk, options_.kv_disk_limit, options_.test_faults, true,
                                      disk_queue_};
        if (Status status = kv::DiskTier::open(options, &disk); !status.is_ok()) return status;
        const bool lru = options_.kv_evict == Eviction::kLru;
        pager_ = std::make_unique<kv::Pager>(kv_budget_, std::move(disk), lru ? kv::lru_policy() : kv::score_policy());
    }
    if (options_.ram_bytes > 0 && !ram_shares_) {
        std::string text;
        (void)get_option(options_, "ATLAS_RAM", &text);
        const bool indexed = options_.sparse.mode == AttentionMode::kSparse;
        ram_shares_ = std::make_unique<RamShares>(options_.ram_bytes, std::move(text), indexed,
                                                  RamShares::Parts{kv_budget_, pools_, pager_.get(), *streamer_});
    }
    weights::FormatSettings format;
    if (Status status = weights::parse_format(options_.weight_format, &format); !status.is_ok()) return status;
    if (options_.weight_cache != "0") format.cache = options_.weight_cache;
    if (!format.is_native() && !formats_) formats_ = std::make_unique<weights::FormatStore>(format);
    return Status::ok();
}

Status Runtime::open_metrics() {
    if (options_.metrics.empty() || metrics_) return Status::ok();
    const Status status = MetricsServer::start(options_.metrics, [this] { return metrics_text(*this); }, &metrics_);
    if (status.code() == StatusCode::kInvalidArgument) return status;
    if (status.is_ok()) {
        log().info("metrics: http://{}/metrics", metrics_->address());
    } else {
        log().error("no metrics: {}", status.message());
    }
    return Status::ok();
}

AbsenceCounts Runtime::absences() const {
    AbsenceCounts sum;
    // Held by a session that ends while it leaves the list and hands in its own: it is counted once.
    const std::lock_guard lock(mutex_);
    sum.add(absences_);
    sessions_.for_each([&](const Session& session) { sum.add(session.participation().counts()); });
    return sum;
}

bool Runtime::begin_calibration(side_car::Calibration* calibration) {
    side_car::Calibration* none = nullptr;
    return calibration_.compare_exchange_strong(none, calibration);
}

void Runtime::end_calibration(side_car::Calibration* calibration) {
    calibration_.compare_exchange_strong(calibration, nullptr);
}

void Runtime::enter(Session* session) { sessions_.add(session); }

void Runtime::leave(Session* session) {
    const std::lock_guard lock(mutex_);
    sessions_.remove(session);
    absences_.add(session->participation().counts());
}

std::string Runtime::statistics() const {
    // One more member of the same object.
    std::string text = stats_.json();
    text.insert(text.rfind('}'), ", \"absent\": " + absences().json());
    if (pager_) text.insert(text.rfind('}'), ", \"kv\": " + pager_->json());
    if (pager_ || streamer_) text.insert(text.rfind('}'), ", \"disk\": " + disk_queue_->json());
    if (streamer_) text.insert(text.rfind('}'), ", \"weights\": " + streamer_->json());
    if (formats_) text.insert(text.rfind('}'), ", \"formats\": " + formats_->json());
    if (ram_shares_) text.insert(text.rfind('}'), ", \"ram\": " + ram_shares_->json());
    return text;
}

void Runtime::write_statistics() const noexcept {
    const std::string& target = options_.stats;
    if (target.empty()) return;
    try {
        if (stats_.empty() && absences().empty() && !pager_ && !streamer_ && !formats_) return;
        std::string text = statistics();
        if (target == "1") {
            std::erase(text, '\n');
            log().info("attention: {}", text);
            return;
        }
        std::ofstream file(target);
        file << text;
        // Tried again when the next session ends; said once.
        if (!file.flush() && !unwritable_.exchange(true)) log().error("statistics: cannot write '{}'", target);
    } catch (const std::exception&) {
        // The host is ending: it must not end by an exception in a destructor.
        log().error("statistics: out of memory");
    }
}

}  // namespace atlas::runtime
