#include "attention/correct/far_pages.h"

#include <algorithm>

namespace atlas::attention {

FarPages::Look FarPages::look(const TileView& view, const KeyIndex& index) const {
    Look out;
    const int64_t begin = std::max(first_, view.base_page);
    const int64_t end =
        std::min(first_ + static_cast<int64_t>(has_.size()), view.base_page + static_cast<int64_t>(view.use.size()));
    for (int64_t page = begin; page < end; ++page) {
        const auto at = static_cast<size_t>(page - first_);
        const PageUse use = view.use[static_cast<size_t>(page - view.base_page)];
        if (!has_[at] || use == PageUse::kSkip) continue;
        ++out.seen;
        out.far += is_far(use);
        const PageVersion now = index.version(page);
        out.keys += versions_[at].k != now.k;
        out.values += versions_[at].v != now.v;
    }
    return out;
}

double FarPages::match(const Look& look, const TileView& view) const {
    if (known_ == 0 || view.far_pages == 0) return 0.0;
    const double of_known = static_cast<double>(look.seen) / static_cast<double>(known_);
    const double of_far = static_cast<double>(look.far) / static_cast<double>(view.far_pages);
    return std::max(of_known, of_far) >= 0.75 ? of_known + of_far : 0.0;
}

FarPages::Change FarPages::change(const Look& look) const {
    if (look.values * 4 > look.seen) return Change::kReplaced;
    if (look.keys * 4 > look.seen || (known_ - look.seen) * 4 > known_) return Change::kMoved;
    return Change::kNone;
}

void FarPages::add(int64_t page, const KeyIndex& index) {
    if (has_.empty()) first_ = page;
    if (page < first_) {
        const auto more = static_cast<size_t>(first_ - page);
        versions_.insert(versions_.begin(), more, PageVersion{});
        has_.insert(has_.begin(), more, 0);
        first_ = page;
    }
    const auto at = static_cast<size_t>(page - first_);
    if (at >= has_.size()) {
        versions_.resize(at + 1);
        has_.resize(at + 1);
    }
    known_ += !has_[at];
    has_[at] = 1;
    versions_[at] = index.version(page);
}

void FarPages::assign(const TileView& view, const KeyIndex& index) {
    clear();
    for (size_t page = 0; page < view.use.size(); ++page) {
        if (is_far(view.use[page])) add(view.base_page + static_cast<int64_t>(page), index);
    }
}

void FarPages::clear() {
    versions_.clear();
    has_.clear();
    known_ = 0;
}

}  // namespace atlas::attention
