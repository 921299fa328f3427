#include "host/ops/speed_samples.h"

#include <algorithm>
#include <chrono>
#include <ctime>
#include <new>

#include "host/buffers/owner_buffer.h"

namespace atlas::host {
namespace {

// Copies of keys and values for one sample; more would be felt in the memory that programs have.
constexpr size_t kMostCopied = size_t{64} << 20;
constexpr double kCopyRate = 1e-9;  // seconds a byte, with the memory that it needs
constexpr size_t kSlack = 64;       // vector loops of the host may read past an operand
constexpr size_t kAttention = 0, kProduct = 1;
constexpr double kLeastOfHost = 0.25;  // of its time without what a graph takes by itself, should that have been held up

double work_of(const ggml_tensor* node, bool product) {
    const auto n = [](int64_t number) { return static_cast<double>(number); };
    if (product) return n(node->src[0]->ne[0]) * n(ggml_nelements(node));
    const ggml_tensor* q = node->src[0];
    const ggml_tensor* k = node->src[1];
    return n(ggml_nelements(q)) * n(k->ne[1]) * 2.0;
}

/** Bytes of its operands that lie in pages; more than kMostCopied where they cannot be had without a disk. */
size_t paged_bytes(const ggml_tensor* node) {
    size_t bytes = 0;
    for (const ggml_tensor* src : node->src) {
        if (!src) continue;
        const Placement place = placement_of(src);
        if (!place.pages) continue;
        // Reading for a sample would move pages that are needed.
        if (place.pages->is_paged()) return SIZE_MAX;
        bytes += ggml_nbytes(src);
    }
    return bytes;
}

}  // namespace

double SpeedSamples::now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double SpeedSamples::processor_seconds() {
    timespec time{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

double SpeedSamples::expected(const Step& step) const {
    const bool product = step.is_product();
    const double host = work_of(step.node, product) * rate_[product ? kProduct : kAttention];
    return host + (product ? 0.0 : static_cast<double>(paged_bytes(step.node)) * kCopyRate);
}

void SpeedSamples::begin_graph(std::span<const Step> steps) {
    step_ = SIZE_MAX;
    spent_in_graph_ = 0.0;
    for (runtime::Measured& one : measured_) {
        if (one.samples > 0) one = {};
    }
    size_t count[2] = {0, 0};
    for (const Step& step : steps) {
        count[kAttention] += step.is_attention() ? 1 : 0;
        count[kProduct] += step.is_product() ? 1 : 0;
    }
    bool products = products_next_;
    if (count[products ? kProduct : kAttention] == 0) products = !products;
    const size_t n = count[products ? kProduct : kAttention];
    if (n == 0) return;
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    size_t wanted = random_ % n;
    for (size_t i = 0; i < steps.size(); ++i) {
        if (!(products ? steps[i].is_product() : steps[i].is_attention()) || wanted-- > 0) continue;
        const bool possible = (products || paged_bytes(steps[i].node) <= kMostCopied) && CpuDelegate::supports(steps[i].node);
        const double cost = possible ? expected(steps[i]) : 0.0;
        // Nothing is saved up for more than this one. What is dear has its turn too: the others wait for it.
        saved_ = std::min(saved_, cost);
        if (possible && cost <= saved_) step_ = i;
        if (!possible || step_ == i) products_next_ = !products;
        return;
    }
}

bool SpeedSamples::prepare(const Step& step) {
    ready_ = false;
    own_ = host_ = copies_ = spent_ = 0.0;
    const double begin = now();
    const double begin_processor = processor_seconds();
    try {
        const ggml_tensor* node = step.node;
        result_.resize(ggml_nbytes(node) + kSlack);
        node_ = *node;
        node_.data = result_.data();
        node_.buffer = nullptr;
        node_.view_src = nullptr;
        node_.extra = nullptr;
        operands_.resize(sources_.size());
        for (size_t i = 0; i < sources_.size(); ++i) {
            const ggml_tensor* src = node->src[i];
            if (!src) continue;
            sources_[i] = *src;
            node_.src[i] = &sources_[i];
            const Placement place = placement_of(src);
            if (!place.pages) continue;
            operands_[i].resize(ggml_nbytes(src) + kSlack);
            if (!place.pages->read(place.offset, operands_[i].data(), ggml_nbytes(src)).is_ok()) return false;
            sources_[i].data = operands_[i].data();
            sources_[i].buffer = nullptr;
            sources_[i].view_src = nullptr;
            sources_[i].extra = nullptr;
        }
        ready_ = true;
    } catch (const std::bad_alloc&) {
        operands_.clear();
    }
    copies_ = processor_seconds() - begin_processor;
    spent_ = now() - begin;
    return ready_;
}

void SpeedSamples::run_host() {
    ggml_tensor* nodes[] = {&node_};
    const double begin = now();
    // Its threads come together before what is timed.
    ready_ = delegate_.run_nothing() == GGML_STATUS_SUCCESS;
    const double start = processor_seconds();
    ready_ = ready_ && delegate_.run(nodes) == GGML_STATUS_SUCCESS;
    const double end = processor_seconds();
    ready_ = ready_ && delegate_.run_nothing() == GGML_STATUS_SUCCESS;
    const double nothing = processor_seconds() - end;
    host_ = std::max(end - start - nothing, kLeastOfHost * (end - start));
    spent_ += now() - begin;
}

void SpeedSamples::finish(const Step& step, runtime::Module module, bool host_first) {
    spent_in_graph_ += spent_;
    operands_.clear();
    result_ = {};
    if (!ready_ || own_ <= 0.0 || host_ <= 0.0) return;
    measured_[runtime::index_of(module)].add(own_, host_, copies_, host_first);
    // Sooner more than less, but not by what a busy machine took away once.
    double& rate = rate_[step.is_product() ? kProduct : kAttention];
    const double seconds = std::max(spent_ - copies_, 0.0);
    rate = std::clamp(seconds / work_of(step.node, step.is_product()), 0.7 * rate, 2.0 * rate);
}

void SpeedSamples::end_graph(double seconds, runtime::Work* work) {
    saved_ += kShare * seconds - spent_in_graph_;
    work->compute_seconds = seconds - spent_in_graph_;
    work->sampling_seconds = spent_in_graph_;
    for (size_t i = 0; i < measured_.size(); ++i) work->measured[i].add(measured_[i]);
}

}  // namespace atlas::host
