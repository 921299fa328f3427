#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

/** The host CPU backend's MUL_MAT of quantised weights, in the buffer type that llama.cpp would choose for them (repacked where it does so). */
class HostProduct {
public:
    /**
     * Random weights [rows][cols] of a type by ggml's name and activations [n][cols]. `keep`: whether the product itself will run; else only the
     * bytes are made. Ends the program when ggml refuses.
     */
    HostProduct(const std::string& type, int64_t rows, int64_t cols, int64_t n, int threads, bool keep);
    ~HostProduct();
    HostProduct(const HostProduct&) = delete;
    HostProduct& operator=(const HostProduct&) = delete;

    void run();  ///< the product, once

    const std::vector<uint8_t>& weights() const { return weights_; }  ///< as in a file
    const std::vector<float>& x() const { return x_; }
    const std::vector<float>& out();  ///< [n][rows] of the last run
    const char* buffer() const;       ///< name of the buffer type

private:
    struct State;
    std::unique_ptr<State> state_;
    std::vector<uint8_t> weights_;
    std::vector<float> x_, out_;
};
