#include "host/ops/shadow.h"

#include <algorithm>

namespace atlas::host {
namespace {

// Vector loops of the host may read a few bytes past the end of an operand.
constexpr size_t kSlack = 64;

}  // namespace

ShadowNode::ShadowNode(ggml_tensor* node, std::span<const ggml_tensor* const> kept) : original_(node), kept_(kept) {
    extend(node);
    for (const ggml_tensor* src : node->src) {
        if (src) extend(src);
    }
    for (Window& window : windows_) {
        window.copy.resize(window.end - window.begin + kSlack);
        if (status_.is_ok()) status_ = window.pages->read(window.begin, window.copy.data(), window.end - window.begin);
    }
    node_ = shadow_of(node);
    for (size_t i = 0; i < sources_.size(); ++i) {
        if (!node->src[i]) continue;
        sources_[i] = shadow_of(node->src[i]);
        node_.src[i] = &sources_[i];
    }
}

Status ShadowNode::write_back() const {
    if (is_kept(original_)) return Status::ok();
    const Placement place = placement_of(original_);
    if (!place.pages) return Status::ok();
    const auto window =
        std::find_if(windows_.begin(), windows_.end(), [&](const Window& w) { return w.pages == place.pages; });
    return place.pages->update(place.offset, window->copy.data() + (place.offset - window->begin),
                               ggml_nbytes(original_));
}

bool ShadowNode::is_kept(const ggml_tensor* tensor) const {
    return std::find(kept_.begin(), kept_.end(), tensor) != kept_.end();
}

void ShadowNode::extend(const ggml_tensor* tensor) {
    const Placement place = placement_of(tensor);
    if (!place.pages || is_kept(tensor)) return;
    const size_t end = place.offset + ggml_nbytes(tensor);
    for (Window& window : windows_) {
        if (window.pages != place.pages) continue;
        window.begin = std::min(window.begin, place.offset);
        window.end = std::max(window.end, end);
        return;
    }
    windows_.push_back({place.pages, place.offset, end, {}});
}

ggml_tensor ShadowNode::shadow_of(const ggml_tensor* tensor) {
    ggml_tensor shadow = *tensor;
    const Placement place = placement_of(tensor);
    if (!place.pages || is_kept(tensor)) return shadow;
    for (Window& window : windows_) {
        if (window.pages == place.pages) shadow.data = window.copy.data() + (place.offset - window.begin);
    }
    shadow.buffer = nullptr;
    shadow.view_src = nullptr;
    shadow.extra = nullptr;
    return shadow;
}

}  // namespace atlas::host
