#include "attention/index/key_index.h"

#include <cstring>
#include <utility>

namespace atlas::attention {
namespace {

/** SplitMix64 (Steele, Lea, Flood 2014): the rotation is the same in every run. */
uint64_t next_random(uint64_t* state) {
    uint64_t x = *state += 0x9E3779B97F4A7C15ULL;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ULL;
    x = (x ^ x >> 27) * 0x94D049BB133111EBULL;
    return x ^ x >> 31;
}

}  // namespace

KeyIndex::KeyIndex(const kv::PageTable& k, const kv::PageTable& v, int64_t n_head_kv, int64_t d_k, int64_t d_v,
                   kv::Budget* budget)
    : k_(k),
      v_(v),
      n_heads_(n_head_kv),
      d_k_(d_k),
      d_v_(d_v),
      shape_(d_k, d_v),
      budget_(budget),
      signs_(static_cast<size_t>(2 * shape_.d)),
      pages_(static_cast<size_t>((std::min(k.rows(), v.rows()) + kv::kPageRows - 1) / kv::kPageRows)) {
    chunks_.resize((pages_.size() + kChunk - 1) / kChunk);
    uint64_t state = 0;
    for (float& sign : signs_) sign = (next_random(&state) & 1) != 0 ? 1.0f : -1.0f;
    bytes_ = chunks_.size() * sizeof chunks_[0] + pages_.size() * sizeof pages_[0];
}

KeyIndex::~KeyIndex() {
    if (budget_) budget_->release(reserved_);
}

bool KeyIndex::reserve(int64_t page) {
    auto& chunk = chunks_[static_cast<size_t>(page / kChunk)];
    if (chunk) return true;
    const size_t bytes = static_cast<size_t>(kChunk * n_heads_) * shape_.bytes;
    std::unique_ptr<std::byte[], Free> memory(static_cast<std::byte*>(::operator new[](bytes, std::align_val_t{64})));
    if (budget_) {
        if (!budget_->reserve_or_relieve(bytes)) return false;
        reserved_ += bytes;
    }
    chunk = std::move(memory);
    bytes_ += bytes;
    return true;
}

void KeyIndex::begin(int64_t page) {
    if (const auto parts = parts_.find(page); parts != parts_.end()) {
        bytes_ -= parts->second.size() * part_bytes();
        parts_.erase(parts);
    }
    Page& known = pages_[static_cast<size_t>(page)];
    known.encoded = false;
    known.broken = false;
    known.version = version(page);
}

void KeyIndex::update(int64_t page, int64_t head, const float* k, const float* v, std::vector<float>* work) {
    const auto at = static_cast<size_t>(page);
    const auto d = static_cast<size_t>(shape_.d);
    const auto d_k = static_cast<size_t>(d_k_);
    constexpr auto kKeys = static_cast<size_t>(kernels::kCodeKeys);
    work->resize(kKeys * d);
    for (size_t key = 0; key < kKeys; ++key) {
        std::memcpy(work->data() + key * d, k + key * d_k, d_k * sizeof(float));
        std::fill(work->data() + key * d + d_k, work->data() + (key + 1) * d, 0.0f);
    }
    kernels::rotate_rows(signs_.data(), kernels::kCodeKeys, shape_.d, work->data());
    std::byte* codes = chunks_[at / kChunk].get() + offset_in_chunk(page, head);
    if (!kernels::encode_codes(shape_, work->data(), v, codes)) pages_[at].broken = true;
}

size_t KeyIndex::part_bytes() const {
    return sizeof(Part) + static_cast<size_t>(n_heads_) * (static_cast<size_t>(d_v_) + sizeof(float));
}

const KeyIndex::Part* KeyIndex::find_part(int64_t page, uint64_t cells) const {
    const auto parts = parts_.find(page);
    if (parts == parts_.end()) return nullptr;
    for (const Part& part : parts->second) {
        if (part.cells == cells) return &part;
    }
    return nullptr;
}

bool KeyIndex::has_part(int64_t page, uint64_t cells) {
    auto* part = const_cast<Part*>(find_part(page, cells));
    if (part) part->call = call_;
    return part != nullptr;
}

void KeyIndex::begin_part(int64_t page, uint64_t cells) {
    std::vector<Part>& parts = parts_[page];
    Part part{cells, call_, std::vector<int8_t>(static_cast<size_t>(n_heads_ * d_v_)),
              std::vector<float>(static_cast<size_t>(n_heads_))};
    while (parts.size() >= kMostParts) {
        // What this call needs is about to be read.
        const auto oldest =
            std::find_if(parts.begin(), parts.end(), [&](const Part& known) { return known.call != call_; });
        if (oldest == parts.end()) break;
        parts.erase(oldest);
        bytes_ -= part_bytes();
    }
    parts.push_back(std::move(part));
    bytes_ += part_bytes();
}

void KeyIndex::update_part(int64_t page, uint64_t cells, int64_t head, const float* v) {
    Part& part = *const_cast<Part*>(find_part(page, cells));
    const float scale = kernels::encode_value_mean(v, d_v_, cells, part.means.data() + head * d_v_);
    // Hidden keys that are not finite have made the page unusable already.
    part.scales[static_cast<size_t>(head)] = scale == scale ? scale : 0.0f;
}

kernels::ValueMean KeyIndex::mean_of(int64_t page, uint64_t cells, int64_t head) const {
    if (cells == ~uint64_t{0}) return kernels::value_mean_of(shape_, codes(page, head));
    const Part& part = *find_part(page, cells);
    return {part.means.data() + head * d_v_, part.scales[static_cast<size_t>(head)]};
}

}  // namespace atlas::attention
