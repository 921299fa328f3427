#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "base/status.h"
#include "kernels/cuda/driver.h"
#include "kernels/cuda/kernel.h"

namespace atlas::kernels::cuda {

class Device;

/** Memory of a device; given back at its end. */
class Buffer {
public:
    Buffer() = default;
    Buffer(Device* device, uint64_t address, size_t bytes) : device_(device), address_(address), bytes_(bytes) {}
    Buffer(Buffer&& other) noexcept { *this = std::move(other); }
    Buffer& operator=(Buffer&& other) noexcept;
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer();

    uint64_t address() const { return address_; }
    size_t bytes() const { return bytes_; }
    /** The address as a kernel's argument has it. Not to be read on the host. */
    template <class T>
    T* as() const {
        return reinterpret_cast<T*>(address_);
    }

private:
    Device* device_ = nullptr;
    uint64_t address_ = 0;
    size_t bytes_ = 0;
};

/**
 * One GPU with Atlas's kernels: its primary context (shared with whoever else uses the GPU in this process), the module and a stream. Every
 * function works in the order of the stream. Errors name the operation, its size and the driver's word for what happened. For one thread at a
 * time.
 */
class Device {
public:
    /**
     * Opens device `ordinal` and loads `image` (a fatbin). Unsupported, with the reason: no GPU, no kernels in this build, a GPU older than sm_75, a
     * driver that cannot load the image. `api` is copied.
     */
    static Status open(const DriverApi& api, int ordinal, std::span<const std::byte> image,
                       std::unique_ptr<Device>* device);
    ~Device();
    Device(const Device&) = delete;
    Device& operator=(const Device&) = delete;

    const std::string& name() const { return name_; }
    int architecture() const { return architecture_; }  ///< 10 · major + minor: 86
    int multiprocessors() const { return multiprocessors_; }

    /** At least 16 bytes, aligned to 256. Out of memory is a status. */
    Status allocate(size_t bytes, Buffer* buffer);
    /** `from` must stay as it is until wait(). */
    Status upload(const Buffer& to, const void* from, size_t bytes);
    Status download(void* to, const Buffer& from, size_t bytes);
    Status clear(const Buffer& buffer);
    /** `arguments` is the kernel's struct; it is copied before this returns. */
    Status launch(Kernel kernel, uint32_t grid_x, uint32_t grid_y, const void* arguments) {
        return launch(kernel, grid_x, grid_y, arguments, info_of(kernel).shared_bytes);
    }
    /** With less shared memory than the kernel may have. */
    Status launch(Kernel kernel, uint32_t grid_x, uint32_t grid_y, const void* arguments, size_t shared_bytes);
    /** Until all of the above is done. What a kernel did wrong shows here. */
    Status wait();

private:
    friend class Buffer;
    explicit Device(const DriverApi& api) : api_(api) {}
    Status start(int ordinal, std::span<const std::byte> image);
    Status load_kernels(std::span<const std::byte> image);
    /** Ok, or what the driver said of it. */
    Status check(int error, const std::string& what) const;

    DriverApi api_;
    int device_ = -1;
    void* context_ = nullptr;
    void* module_ = nullptr;
    void* stream_ = nullptr;
    void* functions_[kKernelCount] = {};
    std::string name_;
    int architecture_ = 0;
    int multiprocessors_ = 0;
};

}  // namespace atlas::kernels::cuda
