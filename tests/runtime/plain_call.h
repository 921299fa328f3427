#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "runtime/session.h"

namespace atlas::runtime {

/** One query head over keys in plain memory: attention that sparse cannot take, for want of pages. */
struct Call {
    static constexpr int64_t kHead = 8, kKeys = 128;
    std::vector<float> q = std::vector<float>(kHead, 0.5f), out = std::vector<float>(kHead);
    std::vector<uint16_t> keys = std::vector<uint16_t>(kHead * kKeys, 0x3C00);

    attention::AttentionCall call() {
        constexpr auto kRow = kHead * static_cast<int64_t>(sizeof(uint16_t));
        constexpr auto kOut = kHead * static_cast<int64_t>(sizeof(float));
        attention::AttentionCall call;
        kernels::AttentionArgs& args = call.args;
        args.d_k = args.d_v = kHead;
        args.n_tokens = args.n_head = args.n_head_kv = 1;
        args.k_stride = args.v_stride = kRow;
        args.q = q.data();
        args.out = out.data();
        args.q_token_stride = args.q_head_stride = args.q_stream_stride = kOut;
        args.out_token_stride = args.out_head_stride = args.out_stream_stride = kOut;
        call.n_keys = kKeys;
        call.k = call.v = {nullptr, 0, reinterpret_cast<const std::byte*>(keys.data()), kRow, kRow * kKeys, kRow, kRow};
        return call;
    }
    void attend(Session& session) {
        session.begin_graph();
        ASSERT_TRUE(session.attend(call(), 1).is_ok());
        EXPECT_FLOAT_EQ(out[0], 1.0f);
    }
};

}  // namespace atlas::runtime
