#include "attention/correct/adaptive_window.h"

#include <algorithm>
#include <cmath>

namespace atlas::attention {
namespace {

constexpr uint64_t kFirst = 48;            // observations before the first change
constexpr uint64_t kBetween = 16;          // and from one change to the next
constexpr double kKeep = 1.0 - 1.0 / 256;  // per observation
constexpr double kPower = 0.5;             // error ~ b^−kPower

}  // namespace

void AdaptiveWindow::add(int layer, double budget, const std::vector<bool>& takes_part) {
    Layer& entry = layers_[layer];
    entry.budget = budget;
    entry.heads.assign(takes_part.size(), {});
    for (size_t i = 0; i < takes_part.size(); ++i) entry.heads[i].takes_part = takes_part[i];
    equalize();
}

void AdaptiveWindow::remove(int layer) {
    layers_.erase(layer);
    equalize();
}

void AdaptiveWindow::leave(int layer, int64_t kv_head) {
    layers_.at(layer).heads.at(static_cast<size_t>(kv_head)) = {};
    equalize();
}

void AdaptiveWindow::clear(int layer) {
    for (Head& head : layers_.at(layer).heads) head = {head.takes_part};
    equalize();
}

void AdaptiveWindow::observe(int layer, int64_t kv_head, double error, double square, double tokens) {
    if (!std::isfinite(error) || !std::isfinite(square)) return;
    Layer& entry = layers_.at(layer);
    Head& head = entry.heads.at(static_cast<size_t>(kv_head));
    ++head.observations;
    head.tokens += tokens;
    head.error = kKeep * head.error + error * std::pow(head.factor * entry.budget, kPower);
    head.square = kKeep * head.square + square;
}

void AdaptiveWindow::begin(int layer) {
    if (layers_.empty() || layers_.begin()->first != layer) return;
    uint64_t least = UINT64_MAX;
    double tokens = HUGE_VAL;
    for (const auto& [number, entry] : layers_) {
        for (const Head& head : entry.heads) {
            if (!head.takes_part) continue;
            least = std::min(least, head.observations);
            tokens = std::min(tokens, head.tokens);
        }
    }
    if (least == UINT64_MAX || least < std::max(kFirst, shared_at_ + kBetween) || tokens < warm_up_) return;
    shared_at_ = least;
    share();
}

double AdaptiveWindow::factor(int layer, int64_t kv_head) const {
    const auto found = layers_.find(layer);
    return found == layers_.end() ? 1.0 : found->second.heads.at(static_cast<size_t>(kv_head)).factor;
}

void AdaptiveWindow::equalize() {
    shared_at_ = 0;
    for (auto& [number, entry] : layers_) {
        for (Head& head : entry.heads) head.factor = 1.0;
    }
}

void AdaptiveWindow::share() {
    // factor = clamp(z·wish / budget): z such that the factors leave the sum of all budgets as it is.
    std::vector<double> wishes, budgets;
    double total = 0.0;
    double most = 0.0;
    for (const auto& [number, entry] : layers_) {
        for (const Head& head : entry.heads) {
            if (!head.takes_part) continue;
            const double error = head.square > 0.0 ? head.error / head.square : 0.0;
            wishes.push_back(std::pow(error, 1.0 / (1.0 + kPower)) / entry.budget);
            budgets.push_back(entry.budget);
            total += entry.budget;
            most = std::max(most, wishes.back());
        }
    }
    if (!(most > 0.0) || !std::isfinite(most)) return equalize();
    // At the highest z considered whatever errs at all is at its most; a sum that is still too small (the others make no errors) stays so.
    double low = 0.0;
    double high = 1e9 / most;
    for (int step = 0; step < 64; ++step) {
        const double z = step < 32 ? std::sqrt(std::max(low, 1e-3 / most) * high) : 0.5 * (low + high);
        double sum = 0.0;
        for (size_t i = 0; i < wishes.size(); ++i) sum += budgets[i] * std::clamp(z * wishes[i], kLeast, kMost);
        (sum > total ? high : low) = z;
    }
    size_t next = 0;
    for (auto& [number, entry] : layers_) {
        for (Head& head : entry.heads) {
            if (head.takes_part) head.factor = std::clamp(low * wishes[next++], kLeast, kMost);
        }
    }
}

}  // namespace atlas::attention
