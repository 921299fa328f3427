#include "weights/streamer.h"

#include <sys/resource.h>

#include <algorithm>
#include <sstream>
#include <system_error>

#include "base/log.h"
#include "io/faulty_io.h"

namespace atlas::weights {
namespace {

// Devices are as fast as they get at 1 to 2 MiB. Budgets as tests have them still make a ring of enough slots.
constexpr uint64_t kMostSlot = uint64_t{2} << 20, kLeastSlot = uint64_t{64} << 10;
// Twice what is under way at a time: as much is used meanwhile.
constexpr uint64_t kLeastSlots = 16, kMostSlots = 128;
// Graphs that a process runs in turn: prompts, tokens, a draft model, a model's parts.
constexpr size_t kMostOrders = 16;

// Pages that the system took back and had to read again: some embeddings of each token always, and all of a program whose memory is too small.
constexpr uint64_t kFewTokens = 8, kManyFaults = 100;

uint64_t major_faults() {
    rusage usage{};
    return getrusage(RUSAGE_SELF, &usage) == 0 ? static_cast<uint64_t>(usage.ru_majflt) : 0;
}

ExpertStats sum(const ExpertStats& one, ExpertStats last) {
    last.hits += one.hits;
    last.misses += one.misses;
    last.read_bytes += one.read_bytes;
    last.evictions += one.evictions;
    last.choices += one.choices;
    last.most_hits += one.most_hits;
    for (size_t i = 0; i < last.shadow_hits.size(); ++i) last.shadow_hits[i] += one.shadow_hits[i];
    return last;
}

ReaderStats sum(ReaderStats one, const ReaderStats& other) {
    one.reads += other.reads;
    one.read_bytes += other.read_bytes;
    one.retries += other.retries;
    one.failures += other.failures;
    one.asked += other.asked;
    one.waits += other.waits;
    one.wait_seconds += other.wait_seconds;
    one.busy_seconds += other.busy_seconds;
    return one;
}

}  // namespace

StreamedWeight* Pass::next(const std::byte* data) {
    if (used_ >= uses_.size()) return nullptr;
    StreamedWeight* weight = uses_[used_++];
    return weight && weight->data == data ? weight : nullptr;
}

ExpertMatrix* Pass::next_experts(const std::byte* data) {
    if (experts_times_ > 0) {
        --experts_times_;
    } else if (experts_used_ < expert_uses_.size()) {
        experts_times_ = expert_uses_[experts_used_++].use.times - 1;
    }
    if (experts_used_ == 0) return nullptr;
    ExpertMatrix* matrix = expert_uses_[experts_used_ - 1].matrix;
    return matrix && matrix->data == data ? matrix : nullptr;
}

void Pass::want(ExpertMatrix& matrix, std::span<const int32_t> experts, std::span<const int64_t> columns) {
    later_.clear();
    const WeightUse& use = expert_uses_[experts_used_ - 1].use;
    // Where tokens are multiplied in turns, each turn wants its own.
    for (size_t i = experts_used_; use.times == 1 && i < expert_uses_.size(); ++i) {
        const auto& [next, next_use] = expert_uses_[i];
        if (next_use.choice != use.choice || next_use.times != 1) break;
        if (next && next != &matrix) later_.push_back(next);
    }
    experts_->want(matrix, experts, columns, later_);
}

Status Pass::finish() {
    Status result = status();
    if (result.is_ok() && streamer_) result = streamer_->check_unchanged();
    if (result.is_ok() && streamer_) streamer_->end(tokens_);
    *this = {};
    return result;
}

Status Streamer::open(const StreamerSettings& settings, std::unique_ptr<Streamer>* out) {
    if (settings.ram < kLeastWeightsRam)
        return Status::invalid_argument("ATLAS_WEIGHTS_RAM=" + std::to_string(settings.ram) + ": allowed is 0, or " +
                                        std::to_string(kLeastWeightsRam) + " bytes and more");
    io::Faults faults;
    if (Status status = io::parse_faults(settings.faults, &faults); !status.is_ok()) return status;
    out->reset(new Streamer(settings));
    return Status::ok();
}

Streamer::Streamer(StreamerSettings settings) : settings_(std::move(settings)), ram_(settings_.ram) { lay_out_ring(); }

Streamer::~Streamer() { forget_all(); }

void Streamer::lay_out_ring() noexcept {
    const std::lock_guard stats_lock(stats_mutex_);
    slot_bytes_ = std::clamp(ram() / 64 / kLeastSlot * kLeastSlot, kLeastSlot, kMostSlot);
    slots_ = std::clamp(ram() / 8 / slot_bytes_, kLeastSlots, kMostSlots);
}

void Streamer::set_ram(uint64_t bytes) noexcept {
    if (bytes == ram()) return;
    const std::lock_guard lock(mutex_);
    forget_all();
    ram_ = bytes;
    lay_out_ring();
    const std::lock_guard stats_lock(stats_mutex_);
    pinned_bytes_ = 0;
}

void Streamer::add(const std::byte* memory, size_t bytes) {
    remove(memory);  // a host that has not said that an earlier mapping ended
    std::unique_ptr<ModelFile> file;
    if (const Status status = ModelFile::open(memory, bytes, &file); !status.is_ok()) {
        log().warn("{} takes no part for {} bytes of weights: {}", settings_.name, bytes, status.message());
        return;
    }
    const std::lock_guard lock(mutex_);
    // Rare, so that everything may be begun anew: what other models have pinned is read once more.
    forget_all();
    files_.push_back(std::move(file));
    mapped_bytes_ += bytes;
    said_fits_ = false;
    const std::lock_guard stats_lock(stats_mutex_);
    direct_ = std::all_of(files_.begin(), files_.end(), [](const auto& one) { return one->is_direct(); });
}

void Streamer::remove(const std::byte* memory) noexcept {
    const std::lock_guard lock(mutex_);
    const auto found =
        std::find_if(files_.begin(), files_.end(), [&](const auto& file) { return file->memory() == memory; });
    if (found == files_.end()) return;
    forget_all();
    mapped_bytes_ -= (*found)->bytes();
    files_.erase(found);
}

void Streamer::forget_all() noexcept {
    if (!work_) return;
    {
        const std::lock_guard stats_lock(stats_mutex_);
        if (reader_) ended_ = sum(ended_, reader_->stats());
        if (experts_) ended_experts_ = sum(ended_experts_, experts_->full_stats());
        reader_ = nullptr;
        experts_ = nullptr;
    }
    if (!work_->reader || work_->reader->forget()) {
        work_.reset();
        return;
    }
    log().error("weights: a read gets no answer; {} bytes of memory are lost until the process ends",
                work_->plan.pinned_bytes() + work_->experts.bytes() + slots_ * slot_bytes_);
    Work* const work = work_.release();
    work->lost_before = lost_.load();
    while (!lost_.compare_exchange_weak(work->lost_before, work)) {}
}

Status Streamer::check_unchanged() const {
    for (const auto& file : files_) {
        if (Status status = file->check_unchanged(); !status.is_ok()) return status;
    }
    return Status::ok();
}

Status Streamer::start() {
    if (work_) return Status::ok();
    const uint64_t ring = slots_ * slot_bytes_;
    auto work = std::make_unique<Work>(files_, slot_bytes_, ram() - ring);
    const ReaderSettings settings{slots_,          slot_bytes_,     settings_.faults,
                                  settings_.queue, settings_.uring, settings_.patience_seconds};
    try {
        if (Status status = Reader::open(settings, &work->reader); !status.is_ok()) return status;
    } catch (const std::system_error& error) {
        return Status::internal(std::string("weights: no thread to read them: ") + error.what());
    }
    work->experts.read_with(work->reader.get());
    work_ = std::move(work);
    log().info("weights: {} bytes are mapped; of {} {} are for those that stay, {} for {} reads ahead", mapped_bytes(),
               bound(), ram() - ring, ring, slots_);
    const std::lock_guard stats_lock(stats_mutex_);
    reader_ = work_->reader.get();
    experts_ = &work_->experts;
    return Status::ok();
}

Status Streamer::begin(std::span<const WeightUse> uses, int64_t tokens, Pass* out) {
    *out = {};
    if (uses.empty()) return Status::ok();
    std::unique_lock lock(mutex_);
    if (files_.empty()) {
        if (!std::exchange(said_unmapped_, true))
            log().warn("{} takes no part: no weights lie in a mapped file (--load-mode mmap)", settings_.name);
        return Status::ok();
    }
    if (mapped_bytes() <= ram()) {
        if (!std::exchange(said_fits_, true))
            log().info("weights: {} bytes are mapped, which {} has room for: none are streamed", mapped_bytes(),
                       bound());
        return Status::ok();
    }
    if (Status status = check_unchanged(); !status.is_ok()) return status;
    if (Status status = start(); !status.is_ok()) return status;
    Plan& plan = work_->plan;
    if (plan.order_count() >= kMostOrders) {
        work_->reader->begin({}, {});
        work_->last = nullptr;
        plan.forget_orders();
    }
    Order* order = plan.order_of(uses);
    if (!order->settled) {
        // Nothing is read while chunks are given memory.
        work_->reader->begin({}, {});
        plan.pin(*order);
    }
    if (work_->last) work_->last->following = order;
    work_->last = order;
    if (!order->following) order->following = order;
    work_->reader->begin(order->chunks, order->following->chunks);
    if (!order->experts.empty()) {
        if (!work_->reader->settle())
            return Status::io("reads for an earlier graph: no answer within " +
                              std::to_string(settings_.patience_seconds) + " s");
        work_->experts.begin(std::max<int64_t>(tokens, 1));
    }
    {
        const std::lock_guard stats_lock(stats_mutex_);
        ++passes_;
        tokens_ += static_cast<uint64_t>(std::max<int64_t>(tokens, 0));
        pinned_bytes_ = plan.pinned_bytes();
        weight_bytes_ = plan.weight_bytes();
    }
    out->lock_ = std::move(lock);
    out->streamer_ = this;
    out->reader_ = work_->reader.get();
    out->uses_ = order->weights;
    out->tokens_ = tokens;
    out->experts_ = &work_->experts;
    out->expert_uses_ = order->experts;
    return Status::ok();
}

void Streamer::end(int64_t tokens) {
    const std::lock_guard stats_lock(stats_mutex_);
    const uint64_t read = ended_.read_bytes + reader_->stats().read_bytes;
    const uint64_t faults = major_faults();
    if (tokens == 1) {
        ++decoded_tokens_;
        decoded_read_bytes_ += read - read_before_;
        decoded_faults_ += faults - faults_before_;
    }
    read_before_ = read;
    faults_before_ = faults;
    if (decoded_tokens_ >= kFewTokens && decoded_faults_ > decoded_tokens_ * kManyFaults &&
        !std::exchange(said_short_, true))
        log().warn(
            "weights: for each token the system has to read {} pages of the program again: memory is short beside "
            "{}, and a smaller one would be faster",
            decoded_faults_ / decoded_tokens_, bound());
}

StreamerStats Streamer::stats() const {
    const std::lock_guard stats_lock(stats_mutex_);
    StreamerStats stats;
    stats.reader = reader_ ? sum(ended_, reader_->stats()) : ended_;
    stats.experts = experts_ ? sum(ended_experts_, experts_->stats()) : ended_experts_;
    stats.ring_bytes = slots_ * slot_bytes_;
    stats.pinned_bytes = pinned_bytes_;
    stats.weight_bytes = weight_bytes_;
    stats.passes = passes_;
    stats.tokens = tokens_;
    stats.decoded_tokens = decoded_tokens_;
    stats.decoded_read_bytes = decoded_read_bytes_;
    stats.decoded_faults = decoded_faults_;
    stats.direct = direct_;
    return stats;
}

std::string Streamer::json() const {
    StreamerStats stats = this->stats();
    {
        const std::lock_guard stats_lock(stats_mutex_);
        if (experts_) stats.experts = sum(ended_experts_, experts_->full_stats());
    }
    const ReaderStats& reader = stats.reader;
    const ExpertStats& experts = stats.experts;
    std::ostringstream text;
    text << "{\"ram\": " << ram() << ", \"ring_bytes\": " << stats.ring_bytes
         << ", \"pinned_bytes\": " << stats.pinned_bytes << ", \"weight_bytes\": " << stats.weight_bytes
         << ", \"passes\": " << stats.passes << ", \"tokens\": " << stats.tokens << ", \"reads\": " << reader.reads
         << ", \"read_bytes\": " << reader.read_bytes
         << ", \"read_bytes_per_token\": " << (stats.tokens > 0 ? reader.read_bytes / stats.tokens : 0)
         << ", \"decoded_tokens\": " << stats.decoded_tokens << ", \"decoded_read_bytes\": " << stats.decoded_read_bytes
         << ", \"decoded_faults\": " << stats.decoded_faults << ", \"asked\": " << reader.asked
         << ", \"waits\": " << reader.waits << ", \"wait_seconds\": " << reader.wait_seconds
         << ", \"busy_seconds\": " << reader.busy_seconds << ", \"retries\": " << reader.retries
         << ", \"failures\": " << reader.failures << ", \"direct\": " << (stats.direct ? "true" : "false");
    if (experts.all_bytes > 0) {
        text << ", \"experts\": {\"bytes\": " << experts.bytes << ", \"all_bytes\": " << experts.all_bytes
             << ", \"hits\": " << experts.hits << ", \"misses\": " << experts.misses
             << ", \"read_bytes\": " << experts.read_bytes << ", \"evictions\": " << experts.evictions
             << ", \"choices\": " << experts.choices << ", \"policy\": \""
             << ExpertPolicy::rates()[experts.followed].name << "\", \"shadow_hits\": {";
        for (size_t i = 0; i < experts.shadow_hits.size(); ++i)
            text << (i > 0 ? ", " : "") << '"' << ExpertPolicy::rates()[i].name << "\": " << experts.shadow_hits[i];
        if (experts.most_hits > 0) text << ", \"belady\": " << experts.most_hits;
        text << "}}";
    }
    text << "}";
    return text.str();
}

}  // namespace atlas::weights
