#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/status.h"
#include "kernels/cuda/device.h"

namespace atlas::kernels::cuda {

/** Copies of host memory on a device. The first failure ends the rest. */
class Uploads {
public:
    explicit Uploads(Device& device) : device_(device) {}
    ~Uploads() {
        if (pending_) (void)device_.wait();  // what is still to be copied has its source in the caller's frame
    }
    Uploads(const Uploads&) = delete;
    Uploads& operator=(const Uploads&) = delete;

    /** A buffer of `bytes`, filled from `from` unless that is null. */
    uint64_t add(const void* from, size_t bytes) {
        buffers_.emplace_back();
        if (status_.is_ok()) status_ = device_.allocate(bytes, &buffers_.back());
        if (status_.is_ok() && from) status_ = device_.upload(buffers_.back(), from, bytes);
        return buffers_.back().address();
    }
    template <class T>
    T* add(const std::vector<T>& values) {
        return values.empty() ? nullptr : reinterpret_cast<T*>(add(values.data(), values.size() * sizeof(T)));
    }
    const Buffer& last() const { return buffers_.back(); }
    const Buffer& at(size_t i) const { return buffers_[i]; }
    const Status& status() const { return status_; }
    Status wait() {
        pending_ = false;
        return device_.wait();
    }
    void fail(Status status) {
        if (status_.is_ok()) status_ = std::move(status);
    }

private:
    Device& device_;
    std::vector<Buffer> buffers_;
    Status status_;
    bool pending_ = true;
};

}  // namespace atlas::kernels::cuda
