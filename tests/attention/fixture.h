#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "attention/engine.h"
#include "kernels/kernel_table.h"
#include "kernels/row_codec.h"
#include "kv/page_table.h"

namespace atlas::attention {

/** A K/V cache of f32 rows in pages, queries and a causal mask: keys are rotary-like (pairs that turn) plus noise. */
class Scene {
public:
    Scene(int64_t n_keys, int64_t n_tokens, int64_t n_head = 4, int64_t n_head_kv = 2, int64_t d = 16,
          int64_t n_stream = 1, uint32_t seed = 1)
        : n_keys(n_keys),
          d(d),
          k(tier_, clock, row_bytes(n_head_kv), n_keys * n_stream),
          v(tier_, clock, row_bytes(n_head_kv), n_keys * n_stream),
          random(seed),
          n_head_kv_(n_head_kv) {
        args.d_k = args.d_v = d;
        args.n_tokens = n_tokens;
        args.n_head = n_head;
        args.n_head_kv = n_head_kv;
        args.n_stream = n_stream;
        args.k_type = args.v_type = DataType::kF32;
        args.k_stride = args.v_stride = static_cast<int64_t>(row_bytes(n_head_kv));
        args.scale = 1.0f / std::sqrt(static_cast<float>(d));
        for (int64_t row = 0; row < n_keys * n_stream; ++row) write_row(row, 1.0f);
        q.resize(static_cast<size_t>(n_stream * n_tokens * n_head * d));
        for (float& x : q) x = 2.0f * normal(random);
        args.q = q.data();
        args.q_head_stride = d * 4;
        args.q_token_stride = n_head * d * 4;
        args.q_stream_stride = n_tokens * n_head * d * 4;
        out.resize(q.size());
        args.out = out.data();
        args.out_head_stride = args.q_head_stride;
        args.out_token_stride = args.q_token_stride;
        args.out_stream_stride = args.q_stream_stride;
        for (int64_t stream = 0; stream < n_stream; ++stream) base_pages.push_back(stream * n_keys / kv::kPageRows);
        set_causal();
    }

    void write_row(int64_t row, float size) {
        std::vector<float> values(static_cast<size_t>(n_head_kv_ * d));
        for (int64_t head = 0; head < n_head_kv_; ++head) {
            for (int64_t p = 0; p < d / 2; ++p) {
                const double angle = static_cast<double>(row) *
                                     std::pow(10000.0, -2.0 * static_cast<double>(p) / static_cast<double>(d));
                values[static_cast<size_t>(head * d + 2 * p)] =
                    size * static_cast<float>(std::cos(angle)) + 0.3f * normal(random);
                values[static_cast<size_t>(head * d + 2 * p + 1)] =
                    size * static_cast<float>(std::sin(angle)) + 0.3f * normal(random);
            }
        }
        ASSERT_TRUE(
            k.write(static_cast<size_t>(row) * row_bytes(n_head_kv_), values.data(), row_bytes(n_head_kv_)).is_ok());
        for (float& x : values) x = normal(random);
        ASSERT_TRUE(
            v.write(static_cast<size_t>(row) * row_bytes(n_head_kv_), values.data(), row_bytes(n_head_kv_)).is_ok());
    }

    /** Token t of every stream sees keys 0 … n_keys − n_tokens + t. */
    void set_causal() {
        mask.assign(static_cast<size_t>(args.n_stream * args.n_tokens * n_keys), 0);
        for (int64_t row = 0; row < args.n_stream * args.n_tokens; ++row) {
            for (int64_t key = n_keys - args.n_tokens + row % args.n_tokens + 1; key < n_keys; ++key) {
                mask[static_cast<size_t>(row * n_keys + key)] = 0xFC00;
            }
        }
        summarize();
    }

    void summarize() {
        args.mask.data = mask.data();
        args.mask.token_stride = n_keys;
        args.mask.head_stride = args.mask.stream_stride = n_keys * args.n_tokens;
        args.mask.n_streams = args.n_stream;
        args.mask.summary_blocks = (n_keys + 63) / 64;
        summary.resize(static_cast<size_t>(args.n_stream * args.n_tokens * args.mask.summary_blocks));
        args.mask.summary = nullptr;
        kernels::summarize_mask(args.mask, args.n_tokens, n_keys, summary.data(), 1);
        args.mask.summary = summary.data();
    }

    /** The call of all streams, as the engine gets it. */
    AttentionCall call(int layer = 5) const {
        AttentionCall made;
        made.args = args;
        made.n_keys = n_keys;
        made.layer = layer;
        for (auto [rows, table] : {std::pair{&made.k, &k}, {&made.v, &v}}) {
            rows->pages = table;
            rows->head_stride = rows->row_bytes = d * static_cast<int64_t>(sizeof(float));
            rows->stream_stride = n_keys * static_cast<int64_t>(row_bytes(n_head_kv_));
            rows->key_stride = rows == &made.k ? args.k_stride : args.v_stride;
        }
        return made;
    }

    std::vector<float> exact() {
        std::vector<float> result(out.size());
        AttentionCall copy = call();
        copy.args.out = result.data();
        AllKeys keys;
        EXPECT_TRUE(keys.find(copy, &copy.args.runs).is_ok());
        EXPECT_TRUE(kernels::reference_table().attention(copy.args, 1).is_ok());
        return result;
    }

    std::vector<float> attend(const Settings& settings, KeyIndex& index, int threads = 2) {
        Engine engine(settings);
        std::fill(out.begin(), out.end(), NAN);
        EXPECT_TRUE(engine.attend(call(), index, threads).is_ok());
        return out;
    }

    KeyIndex make_index(kv::Budget* budget = nullptr) const { return KeyIndex(k, v, n_head_kv_, d, d, budget); }

    /** Page `page` of head `head` as f32 [64][d]. */
    std::vector<float> rows_of(const kv::PageTable& tensor, int64_t page, int64_t head) const {
        std::vector<float> rows(static_cast<size_t>(kv::kPageRows * d));
        for (int64_t j = 0; j < kv::kPageRows; ++j) {
            EXPECT_TRUE(tensor
                            .read(static_cast<size_t>((page * kv::kPageRows + j)) * row_bytes(n_head_kv_) +
                                      static_cast<size_t>(head * d * 4),
                                  rows.data() + j * d, static_cast<size_t>(d * 4))
                            .is_ok());
        }
        return rows;
    }

    const int64_t n_keys;
    const int64_t d;

private:
    size_t row_bytes(int64_t heads) const { return static_cast<size_t>(heads * d) * sizeof(float); }
    kv::Budget budget_;
    kv::RamTier tier_{budget_};

public:
    kv::WriteClock clock;
    kv::PageTable k, v;
    kernels::AttentionArgs args;
    std::vector<float> q, out;
    std::vector<uint16_t> mask;
    std::vector<kernels::BlockVisibility> summary;
    std::vector<int64_t> base_pages;
    std::mt19937 random;
    std::normal_distribution<float> normal;

private:
    const int64_t n_head_kv_;
};

/** ‖a − b‖² / ‖b‖². */
inline double nmse(const std::vector<float>& a, const std::vector<float>& b) {
    double error = 0.0;
    double size = 0.0;
    for (size_t i = 0; i < a.size(); ++i) {
        error += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
        size += static_cast<double>(b[i]) * b[i];
    }
    return error / size;
}

/** Settings that estimate as much as they can: one page of sinks, a page or two of window, nothing selected. */
inline Settings bare() {
    Settings settings;
    settings.mode = Mode::kSparse;
    settings.threshold = 0;
    settings.sinks = 1;
    settings.window = 1;
    settings.floor = settings.budget = 0;
    return settings;
}

}  // namespace atlas::attention
