#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

/** One attention operation as llama.cpp poses it: cell-major K and V, f16 causal mask. */
struct Shape {
    int64_t d, group, n_head_kv, n_keys, n_tokens;
    std::string type;  ///< f16, q8_0, q4_0
};

/** The host CPU backend's FLASH_ATTN_EXT on tensors of its own, whose memory Atlas's operation reads too. */
class HostAttention {
public:
    /** Random K, V, Q; every token sees the keys up to its own, the last n_tokens ones. Ends the program when ggml refuses. */
    HostAttention(const Shape& shape, int threads);
    ~HostAttention();
    HostAttention(const HostAttention&) = delete;
    HostAttention& operator=(const HostAttention&) = delete;

    void run();  ///< the operation, once

    const std::byte* k() const;  ///< [n_keys][n_head_kv][d]
    const std::byte* v() const;
    const float* q() const;        ///< [n_tokens][n_head][d]
    const uint16_t* mask() const;  ///< [n_tokens][n_keys]
    const float* out() const;      ///< [n_tokens][n_head][d]
    int64_t row_bytes() const;     ///< of one head's K or V

private:
    struct State;
    std::unique_ptr<State> state_;
};
