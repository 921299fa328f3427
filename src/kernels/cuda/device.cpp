#include "kernels/cuda/device.h"

#include <algorithm>

namespace atlas::kernels::cuda {
namespace {

constexpr int kOutOfMemory = 2;
constexpr int kOldestArchitecture = 75;
constexpr size_t kSharedWithoutAsking = 48 * 1024;

}  // namespace

Buffer& Buffer::operator=(Buffer&& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(address_, other.address_);
    std::swap(bytes_, other.bytes_);
    return *this;
}

Buffer::~Buffer() {
    if (device_) device_->api_.release(address_);
}

Status Device::open(const DriverApi& api, int ordinal, std::span<const std::byte> image,
                    std::unique_ptr<Device>* device) {
    std::unique_ptr<Device> opened(new Device(api));
    if (Status status = opened->start(ordinal, image); !status.is_ok()) return status;
    *device = std::move(opened);
    return Status::ok();
}

Status Device::start(int ordinal, std::span<const std::byte> image) {
    if (image.empty()) return Status::unsupported("CUDA: this build has no kernels (nvcc was not there)");
    if (Status s = check(api_.init(0), "starting the driver"); !s.is_ok()) return s;
    int count = 0;
    if (Status s = check(api_.device_count(&count), "counting devices"); !s.is_ok()) return s;
    if (ordinal < 0 || ordinal >= count) {
        return Status::unsupported("CUDA: device " + std::to_string(ordinal) + ": there are " + std::to_string(count));
    }
    if (Status s = check(api_.device_get(&device_, ordinal), "opening device " + std::to_string(ordinal)); !s.is_ok()) {
        return s;
    }
    char name[128] = "";
    int major = 0;
    int minor = 0;
    int shared = 0;
    Status s = check(api_.device_name(name, sizeof name, device_), "asking a device's name");
    const auto ask = [&](int* value, int attribute) {
        if (!s.is_ok()) return;
        s = check(api_.device_attribute(value, attribute, device_), "asking a device's attributes");
    };
    ask(&major, kAttributeMajor);
    ask(&minor, kAttributeMinor);
    ask(&multiprocessors_, kAttributeMultiprocessors);
    ask(&shared, kAttributeSharedBytes);
    if (!s.is_ok()) return s;
    name_ = name;
    architecture_ = 10 * major + minor;
    if (architecture_ < kOldestArchitecture) {
        return Status::unsupported("CUDA: " + name_ + " is sm_" + std::to_string(architecture_) +
                                   ", the oldest with kernels is sm_" + std::to_string(kOldestArchitecture));
    }
    for (const KernelInfo& kernel : kKernels) {
        if (kernel.shared_bytes <= static_cast<size_t>(shared)) continue;
        return Status::unsupported("CUDA: " + name_ + " has " + std::to_string(shared) +
                                   " bytes of shared memory for a block, " + kernel.name + " needs " +
                                   std::to_string(kernel.shared_bytes));
    }
    s = check(api_.context_retain(&context_, device_), "taking the device's context");
    if (s.is_ok()) s = check(api_.context_use(context_), "using the device's context");
    if (s.is_ok()) s = load_kernels(image);
    if (s.is_ok()) s = check(api_.stream_create(&stream_, kStreamNonBlocking), "making a stream");
    return s;
}

Status Device::load_kernels(std::span<const std::byte> image) {
    Status s = check(api_.module_load(&module_, image.data()), "loading the kernels");
    for (size_t i = 0; i < kKernelCount && s.is_ok(); ++i) {
        const KernelInfo& kernel = kKernels[i];
        s = check(api_.module_function(&functions_[i], module_, kernel.name), std::string("finding ") + kernel.name);
        if (!s.is_ok() || kernel.shared_bytes <= kSharedWithoutAsking) continue;
        s = check(api_.function_attribute(functions_[i], kFunctionSharedBytes, static_cast<int>(kernel.shared_bytes)),
                  std::string("giving ") + kernel.name + " " + std::to_string(kernel.shared_bytes) +
                      " bytes of shared memory");
    }
    return s;
}

Device::~Device() {
    if (!context_) return;
    api_.context_use(context_);
    if (stream_) {
        api_.stream_wait(stream_);
        api_.stream_destroy(stream_);
    }
    if (module_) api_.module_unload(module_);
    api_.context_release(device_);
}

Status Device::check(int error, const std::string& what) const {
    if (error == 0) return Status::ok();
    char buffer[32];
    const std::string message = "CUDA: " + what + ": " + name_of_error(api_, error, buffer);
    return error == kOutOfMemory ? Status::out_of_memory(message) : Status::unsupported(message);
}

Status Device::allocate(size_t bytes, Buffer* buffer) {
    bytes = std::max<size_t>(bytes, 16);
    uint64_t address = 0;
    if (Status s = check(api_.context_use(context_), "using the device's context"); !s.is_ok()) return s;
    if (Status s = check(api_.allocate(&address, bytes), "allocating " + std::to_string(bytes) + " bytes");
        !s.is_ok()) {
        return s;
    }
    *buffer = Buffer(this, address, bytes);
    return Status::ok();
}

Status Device::upload(const Buffer& to, const void* from, size_t bytes) {
    if (bytes > to.bytes()) {
        return Status::invalid_argument("CUDA: " + std::to_string(bytes) + " bytes into a buffer of " +
                                        std::to_string(to.bytes()));
    }
    if (bytes == 0) return Status::ok();
    return check(api_.copy_in(to.address(), from, bytes, stream_), "copying " + std::to_string(bytes) + " bytes in");
}

Status Device::download(void* to, const Buffer& from, size_t bytes) {
    if (bytes > from.bytes()) {
        return Status::invalid_argument("CUDA: " + std::to_string(bytes) + " bytes out of a buffer of " +
                                        std::to_string(from.bytes()));
    }
    if (bytes == 0) return Status::ok();
    return check(api_.copy_out(to, from.address(), bytes, stream_), "copying " + std::to_string(bytes) + " bytes out");
}

Status Device::clear(const Buffer& buffer) {
    return check(api_.fill(buffer.address(), 0, buffer.bytes(), stream_),
                 "clearing " + std::to_string(buffer.bytes()) + " bytes");
}

Status Device::launch(Kernel kernel, uint32_t grid_x, uint32_t grid_y, const void* arguments, size_t shared_bytes) {
    if (grid_x == 0 || grid_y == 0) return Status::ok();
    const KernelInfo& info = info_of(kernel);
    void* parameters[] = {const_cast<void*>(arguments)};
    return check(api_.launch(functions_[static_cast<size_t>(kernel)], grid_x, grid_y, 1, info.threads, 1, 1,
                             static_cast<unsigned>(shared_bytes), stream_, parameters, nullptr),
                 std::string("launching ") + info.name);
}

Status Device::wait() { return check(api_.stream_wait(stream_), "waiting for kernels"); }

}  // namespace atlas::kernels::cuda
