#include "sparse_problem.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>
#include <random>
#include <stdexcept>

#include "kernels/cuda/codes.h"
#include "kernels/kernel_table.h"
#include "kernels/reference/reference.h"
#include "kernels/row_codec.h"

namespace atlas::kernels::cuda::test {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();
constexpr auto kKeys = static_cast<int64_t>(kPageKeys);

void need(const Status& status) {
    if (!status.is_ok()) throw std::runtime_error(status.to_string());
}

RowType type_of(DataType type) {
    RowType row_type = RowType::kF32;
    if (!row_type_of(type, &row_type)) throw std::runtime_error("no such row type");
    return row_type;
}

}  // namespace

std::string describe(const SparseSpec& s) {
    return "d " + std::to_string(s.d_k) + "/" + std::to_string(s.d_v) + ", heads " + std::to_string(s.n_head) + "/" +
           std::to_string(s.n_head_kv) + ", streams " + std::to_string(s.n_stream) + ", tokens " +
           std::to_string(s.n_tokens) + " by " + std::to_string(s.tile_tokens) + ", pages " +
           std::to_string(s.far_pages) + ", near " + std::to_string(s.near_keys) + ", " +
           data_type_info(s.k_type).name + "/" + data_type_info(s.v_type).name + ", softcap " +
           std::to_string(s.softcap) + ", budget " + std::to_string(s.budget.least) + " to " +
           std::to_string(s.budget.most) + " from " + std::to_string(s.budget.share) + ", seed " +
           std::to_string(s.seed);
}

template <class T>
T* SparseProblem::put(const std::vector<T>& values) {
    buffers_.emplace_back();
    need(device_.allocate(values.size() * sizeof(T), &buffers_.back()));
    need(device_.upload(buffers_.back(), values.data(), values.size() * sizeof(T)));
    need(device_.wait());
    return buffers_.back().as<T>();
}

SparseProblem::SparseProblem(Device& device, const SparseSpec& spec) : spec_(spec), device_(device) {
    buffers_.reserve(32);
    std::mt19937 random(spec.seed);
    std::normal_distribution<float> normal;
    const int64_t near_pages = (spec.near_keys + kKeys - 1) / kKeys;
    const int64_t stream_pages = spec.far_pages + near_pages;
    keys_ = stream_pages * kKeys;

    // Keys and values as a cache has them: all KV heads of a cell in one row. Half of the pages hold keys that are alike, as texts have them.
    const auto encode = [&](DataType type, int64_t d, bool keys, std::vector<double>* stored, int64_t* stride) {
        const auto bytes = static_cast<int64_t>(row_bytes(type, d));
        *stride = (spec.n_head_kv * bytes + 15) / 16 * 16;
        std::vector<unsigned char> cache(static_cast<size_t>(spec.n_stream * keys_ * *stride), 0xFF);
        stored->resize(static_cast<size_t>(spec.n_stream * keys_ * spec.n_head_kv * d));
        std::vector<float> row(static_cast<size_t>(d));
        std::vector<float> alike(static_cast<size_t>(d));
        for (int64_t cell = 0; cell < spec.n_stream * keys_; ++cell) {
            if (cell % kKeys == 0) {
                for (float& x : alike) x = cell / kKeys % 2 ? normal(random) : 0.0f;
            }
            for (int64_t head = 0; head < spec.n_head_kv; ++head) {
                const float size = keys && random() % 16 == 0 ? 2.0f : 0.7f;
                for (size_t i = 0; i < row.size(); ++i)
                    row[i] = size * normal(random) + (keys ? 0.5f * alike[i] : 0.0f);
                unsigned char* to = cache.data() + cell * *stride + head * bytes;
                reference::row_encoder(type)(row.data(), to, d);
                std::vector<float> back(row.size());
                reference::row_decoder(type)(to, back.data(), d);
                std::copy(back.begin(), back.end(), stored->begin() + (cell * spec.n_head_kv + head) * d);
            }
        }
        return cache;
    };
    int64_t k_stride = 0;
    int64_t v_stride = 0;
    const unsigned char* k = put(encode(spec.k_type, spec.d_k, true, &k_, &k_stride));
    const unsigned char* v = put(encode(spec.v_type, spec.d_v, false, &v_, &v_stride));
    q_.resize(rows() * static_cast<size_t>(spec.d_k));
    for (float& x : q_) x = normal(random);
    for (int64_t head = 0; head < spec.n_head && spec.sinks; ++head) sinks_.push_back(normal(random));

    const CodeShape shape(spec.d_k, spec.d_v);
    signs_.resize(static_cast<size_t>(2 * shape.d));
    for (float& sign : signs_) sign = random() % 2 ? 1.0f : -1.0f;
    const size_t page_codes = shape.bytes * static_cast<size_t>(spec.n_head_kv);
    unsigned char* codes =
        put(std::vector<unsigned char>(static_cast<size_t>(spec.n_stream * spec.far_pages) * page_codes + 64, 0xFF));

    AttentionArguments& a = call.near;
    const int64_t tiles = (spec.n_tokens + spec.tile_tokens - 1) / spec.tile_tokens;
    std::vector<Page> near_pages_list;
    std::vector<PageList> near_lists;
    const auto k_bytes = static_cast<int64_t>(row_bytes(spec.k_type, spec.d_k));
    const auto v_bytes = static_cast<int64_t>(row_bytes(spec.v_type, spec.d_v));
    for (int64_t stream = 0; stream < spec.n_stream; ++stream) {
        const int64_t base = stream * stream_pages;
        const auto first_far = static_cast<uint32_t>(far_pages_.size());
        const auto first_near = static_cast<uint32_t>(near_pages_list.size());
        for (int64_t p = 0; p < stream_pages; ++p) {
            const unsigned char* page_k = k + (base + p) * kKeys * k_stride;
            const unsigned char* page_v = v + (base + p) * kKeys * v_stride;
            if (p < spec.far_pages) {
                far_pages_.push_back(
                    {page_k, page_v, codes + static_cast<size_t>(stream * spec.far_pages + p) * page_codes, p * kKeys});
                continue;
            }
            const int64_t count = std::min(kKeys, spec.near_keys - (p - spec.far_pages) * kKeys);
            near_pages_list.push_back(
                {page_k, page_v, count == kKeys ? ~uint64_t{0} : (uint64_t{1} << count) - 1, p * kKeys});
        }
        for (int64_t head = 0; head < spec.n_head_kv; ++head) {
            for (int64_t tile = 0; tile < tiles; ++tile) {
                // All tiles of a list select from the same pages: an engine would give later tiles more.
                far_lists_.push_back({first_far, first_far + static_cast<uint32_t>(spec.far_pages), head * k_bytes,
                                      head * v_bytes, head * static_cast<int64_t>(shape.bytes)});
                near_lists.push_back(
                    {first_near, static_cast<uint32_t>(near_pages_list.size()), head * k_bytes, head * v_bytes});
            }
        }
    }
    if (far_pages_.empty()) far_pages_.emplace_back();
    if (near_pages_list.empty()) near_pages_list.emplace_back();
    a.pages = put(near_pages_list);
    a.lists = put(near_lists);
    a.q = put(q_);
    out_ = put(std::vector<float>(rows() * static_cast<size_t>(spec.d_v)));
    lse_ = put(std::vector<float>(rows()));
    a.out = out_;
    a.lse = lse_;
    if (spec.sinks) a.sinks = put(sinks_);
    if (spec.mask) {
        // Token t sees the keys up to near_keys − n_tokens + t behind the far pages.
        std::vector<uint16_t> mask(static_cast<size_t>(spec.n_tokens * keys_));
        for (int64_t token = 0; token < spec.n_tokens; ++token) {
            for (int64_t key = 0; key < keys_; ++key) {
                mask[static_cast<size_t>(token * keys_ + key)] = near_visible({0, token, 0}, key) ? 0 : 0xFC00;
            }
        }
        a.mask = put(mask);
        a.mask_token_stride = keys_;
    }
    a.mask_heads = a.mask_streams = 1;
    a.q_head_stride = spec.d_k;
    a.q_token_stride = spec.d_k * spec.n_head;
    a.q_stream_stride = a.q_token_stride * spec.n_tokens;
    a.out_head_stride = spec.d_v;
    a.out_token_stride = spec.d_v * spec.n_head;
    a.out_stream_stride = a.out_token_stride * spec.n_tokens;
    a.k_stride = k_stride;
    a.v_stride = v_stride;
    a.k_type = type_of(spec.k_type);
    a.v_type = type_of(spec.v_type);
    a.d_k = static_cast<int32_t>(spec.d_k);
    a.d_v = static_cast<int32_t>(spec.d_v);
    a.n_tokens = static_cast<int32_t>(spec.n_tokens);
    a.n_head = static_cast<int32_t>(spec.n_head);
    a.n_head_kv = static_cast<int32_t>(spec.n_head_kv);
    a.n_stream = static_cast<int32_t>(spec.n_stream);
    a.tile_tokens = static_cast<int32_t>(std::min(spec.tile_tokens, spec.n_tokens));
    a.tiles = static_cast<int32_t>(tiles);
    a.scale = spec.sharpness / std::sqrt(static_cast<float>(spec.d_k));
    a.softcap = spec.softcap;
    call.near_pages = near_pages;
    call.pages = put(far_pages_);
    call.lists = put(far_lists_);
    call.far_pages = spec.far_pages;
    call.signs = put(signs_);
    call.budget = spec.budget;

    EncodeArguments e{};
    e.pages = call.pages;
    e.k_head_stride = k_bytes;
    e.v_head_stride = v_bytes;
    e.code_head_stride = static_cast<int64_t>(shape.bytes);
    e.k_stride = k_stride;
    e.v_stride = v_stride;
    e.signs = call.signs;
    broken_.assign(static_cast<size_t>(spec.n_stream * spec.far_pages * spec.n_head_kv) + 1, 7);
    e.broken = put(broken_);
    e.layout = layout_of(shape);
    e.k_type = a.k_type;
    e.v_type = a.v_type;
    e.d_k = a.d_k;
    need(encode_pages(device, e, spec.n_stream * spec.far_pages, spec.n_head_kv));
    need(device.wait());
}

std::vector<float> SparseProblem::out() const {
    return {out_, out_ + rows() * static_cast<size_t>(spec_.d_v)};  // the emulated device's memory is the host's
}
std::vector<float> SparseProblem::lse() const { return {lse_, lse_ + rows()}; }

uint64_t SparseProblem::selected(const SparseAttention& sparse, int64_t list, int64_t p) const {
    const SparseArguments& s = sparse.arguments();
    uint64_t cells;
    std::memcpy(&cells, s.cells + list * s.page_stride + p, sizeof cells);
    return cells;
}

int64_t SparseProblem::rows_of(int64_t list) const {
    const int64_t tile = list % call.near.tiles;
    return std::min<int64_t>(call.near.tile_tokens, spec_.n_tokens - tile * call.near.tile_tokens) * group();
}
SparseProblem::Row SparseProblem::row_of(int64_t list, int64_t row) const {
    const int64_t tile = list % call.near.tiles;
    const int64_t head = list / call.near.tiles % spec_.n_head_kv;
    return {list / call.near.tiles / spec_.n_head_kv, tile * call.near.tile_tokens + row / group(),
            head * group() + row % group()};
}

bool SparseProblem::near_visible(const Row& row, int64_t key) const {
    const int64_t near = key - spec_.far_pages * kKeys;
    if (near >= spec_.near_keys) return false;
    return !spec_.mask || near <= spec_.near_keys - spec_.n_tokens + row.token;
}

double SparseProblem::logit(const Row& row, int64_t key) const {
    const float* q = q_.data() + index_of(row) * spec_.d_k;
    const double* k = k_.data() + ((row.stream * keys_ + key) * spec_.n_head_kv + row.head / group()) * spec_.d_k;
    double product = 0;
    for (int64_t i = 0; i < spec_.d_k; ++i) product += static_cast<double>(q[i]) * k[i];
    product *= static_cast<double>(call.near.scale);
    if (spec_.softcap > 0.0f) product = spec_.softcap * std::tanh(product / static_cast<double>(spec_.softcap));
    return product * std::numbers::log2e;
}

std::vector<double> SparseProblem::near_lse(int64_t list) const {
    std::vector<double> lse;
    for (int64_t r = 0; r < rows_of(list); ++r) {
        const Row row = row_of(list, r);
        double sum = spec_.sinks
                         ? std::exp2(static_cast<double>(sinks_[static_cast<size_t>(row.head)]) * std::numbers::log2e)
                         : 0.0;
        for (int64_t key = spec_.far_pages * kKeys; key < keys_; ++key) {
            if (near_visible(row, key)) sum += std::exp2(logit(row, key));
        }
        lse.push_back(sum > 0 ? std::log2(sum) : kMinusInfinity);
    }
    return lse;
}

std::vector<double> SparseProblem::code_logits(const SparseAttention& sparse, int64_t list) const {
    const SparseArguments& s = sparse.arguments();
    const CodeShape shape(spec_.d_k, spec_.d_v);
    const FarList& far = far_lists_[static_cast<size_t>(list)];
    std::vector<double> all(static_cast<size_t>(rows_of(list) * pages_of(list) * kKeys));
    alignas(64) float logits[kPageKeys];
    for (int64_t r = 0; r < rows_of(list); ++r) {
        const int64_t row = index_of(row_of(list, r));
        const CodeQueries queries{1, s.codes + row * shape.d, s.exact + row * shape.d, s.scale + row, s.offset + row};
        for (int64_t p = 0; p < pages_of(list); ++p) {
            const unsigned char* page = far_pages_[static_cast<size_t>(far.begin + p)].codes + far.code_offset;
            reference_table().score_codes(shape, queries, reinterpret_cast<const std::byte*>(page), logits);
            const double cap = static_cast<double>(spec_.softcap) * std::numbers::log2e;
            for (int64_t key = 0; key < kKeys; ++key) {
                const auto x = static_cast<double>(logits[key]);
                all[static_cast<size_t>((r * pages_of(list) + p) * kKeys + key)] =
                    cap > 0 ? cap * std::tanh(x / cap) : x;
            }
        }
    }
    return all;
}

std::vector<double> SparseProblem::whole(const SparseAttention& /*sparse*/, int64_t list,
                                         const std::vector<double>& logits) const {
    std::vector<double> whole = near_lse(list);
    for (int64_t r = 0; r < rows_of(list); ++r) {
        double sum = std::exp2(whole[static_cast<size_t>(r)]);
        for (int64_t i = 0; i < pages_of(list) * kKeys; ++i)
            sum += std::exp2(logits[static_cast<size_t>(r * pages_of(list) * kKeys + i)]);
        whole[static_cast<size_t>(r)] = std::log2(sum);
    }
    return whole;
}

std::vector<double> SparseProblem::shares(const SparseAttention& sparse, int64_t list) const {
    const std::vector<double> logits = code_logits(sparse, list);
    const std::vector<double> all = whole(sparse, list, logits);
    const int64_t n = pages_of(list) * kKeys;
    std::vector<double> shares(static_cast<size_t>(n));
    for (int64_t key = 0; key < n; ++key) {
        for (int64_t r = 0; r < rows_of(list); r += group()) {
            double of_token = 0;
            for (int64_t h = r; h < r + group(); ++h)
                of_token += std::exp2(logits[static_cast<size_t>(h * n + key)] - all[static_cast<size_t>(h)]);
            shares[static_cast<size_t>(key)] = std::max(shares[static_cast<size_t>(key)], of_token);
        }
    }
    return shares;
}

void SparseProblem::answer(const SparseAttention& sparse, std::vector<double>* out, std::vector<double>* lse) const {
    const SparseArguments& s = sparse.arguments();
    const CodeShape shape(spec_.d_k, spec_.d_v);
    const auto d_v = static_cast<size_t>(spec_.d_v);
    out->assign(rows() * d_v, 0.0);
    lse->assign(rows(), kMinusInfinity);
    for (int64_t list = 0; list < lists(); ++list) {
        const std::vector<double> logits = code_logits(sparse, list);
        const FarList& far = far_lists_[static_cast<size_t>(list)];
        for (int64_t r = 0; r < rows_of(list); ++r) {
            const Row row = row_of(list, r);
            const auto index = static_cast<size_t>(index_of(row));
            double* to = out->data() + index * d_v;
            double sum =
                spec_.sinks
                    ? std::exp2(static_cast<double>(sinks_[static_cast<size_t>(row.head)]) * std::numbers::log2e)
                    : 0.0;
            const auto read_key = [&](int64_t key) {
                const double weight = std::exp2(logit(row, key));
                sum += weight;
                const double* v =
                    v_.data() + ((row.stream * keys_ + key) * spec_.n_head_kv + row.head / group()) * spec_.d_v;
                for (size_t i = 0; i < d_v; ++i) to[i] += weight * v[i];
            };
            for (int64_t key = spec_.far_pages * kKeys; key < keys_; ++key) {
                if (near_visible(row, key)) read_key(key);
            }
            for (int64_t p = 0; p < pages_of(list); ++p) {
                const uint64_t cells = selected(sparse, list, p);
                double rest = 0;
                for (int64_t key = 0; key < kKeys; ++key) {
                    if (cells >> key & 1) {
                        read_key(p * kKeys + key);
                    } else {
                        rest += std::exp2(logits[static_cast<size_t>((r * pages_of(list) + p) * kKeys + key)]);
                    }
                }
                if (!spec_.budget.rest) continue;
                const auto* page = reinterpret_cast<const std::byte*>(
                    far_pages_[static_cast<size_t>(far.begin + p)].codes + far.code_offset);
                rest *= std::exp2(-std::numbers::ln2 * static_cast<double>(s.squares[index]) *
                                  static_cast<double>(noise_of_codes(shape, page)));
                sum += rest;
                const ValueMean mean = value_mean_of(shape, page);
                for (size_t i = 0; i < d_v; ++i) to[i] += rest * static_cast<double>(mean.scale) * mean.mean[i];
            }
            for (size_t i = 0; i < d_v && sum > 0; ++i) to[i] /= sum;
            if (sum > 0) (*lse)[index] = std::log(sum);
        }
    }
}

}  // namespace atlas::kernels::cuda::test
