#include "fake_driver.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include "emulated_kernels.h"
#include "emulator/launch.h"
#include "kernels/cuda/kernel.h"

namespace atlas::kernels::cuda::test {
namespace {

constexpr int kInvalidValue = 1;
constexpr int kNotFound = 500;

struct Stream {
    std::deque<std::function<void()>> operations;
};

struct Fake {
    std::mt19937 random;
    std::map<uint64_t, size_t> memory;
    std::vector<std::unique_ptr<Stream>> streams;
    int others_open = 0;  // contexts, modules
    int calls = 0, failing_call = -1, error = 0;
    int major = 8, minor = 0, shared_bytes = 163 * 1024, devices = 1;
};
Fake fake;

/** 0, or the error that is to come now. */
int call() { return fake.calls++ == fake.failing_call ? fake.error : 0; }

bool inside(uint64_t address, size_t bytes) {
    auto at = fake.memory.upper_bound(address);
    if (at == fake.memory.begin()) return false;
    --at;
    return address + bytes <= at->first + at->second;
}

/** A GPU may run ahead of the host, or not. */
void run_some(Stream& stream) {
    for (unsigned n = fake.random() % 3; n > 0 && !stream.operations.empty(); --n) {
        stream.operations.front()();
        stream.operations.pop_front();
    }
}
int enqueue(void* stream, std::function<void()> operation) {
    auto& s = *static_cast<Stream*>(stream);
    s.operations.push_back(std::move(operation));
    run_some(s);
    return 0;
}

int allocate(uint64_t* address, size_t bytes) {
    if (const int error = call()) return error;
    // Exactly as long as asked for, so that the byte behind it is not ours.
    void* memory = nullptr;
    if (posix_memalign(&memory, 256, bytes) != 0) return 2;
    std::memset(memory, 0x7F, bytes);
    *address = reinterpret_cast<uint64_t>(memory);
    fake.memory[*address] = bytes;
    return 0;
}

int launch(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
           unsigned block_z, unsigned shared_bytes, void* stream, void** arguments, void** /*extra*/) {
    if (const int error = call()) return error;
    const auto kernel = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(function) - 1);
    const KernelInfo& info = kKernels[kernel];
    if (block_x != info.threads || block_y != 1 || block_z != 1 || grid_z != 1 || shared_bytes > info.shared_bytes) {
        return kInvalidValue;
    }
    // The driver copies the argument when it is asked.
    auto argument = std::make_shared<std::vector<max_align_t>>(info.argument_bytes / sizeof(max_align_t) + 1);
    std::memcpy(argument->data(), arguments[0], info.argument_bytes);
    return enqueue(stream, [=] { run_emulated(kernel, grid_x, grid_y, shared_bytes, argument->data()); });
}

int find_function(void** function, void* /*module*/, const char* name) {
    if (const int error = call()) return error;
    for (size_t i = 0; i < kKernelCount; ++i) {
        if (std::strcmp(name, kKernels[i].name) != 0) continue;
        *function = reinterpret_cast<void*>(i + 1);
        return 0;
    }
    return kNotFound;
}

int attribute(int* value, int which, int /*device*/) {
    switch (which) {
        case kAttributeMultiprocessors:
            *value = 2;
            break;
        case kAttributeMajor:
            *value = fake.major;
            break;
        case kAttributeMinor:
            *value = fake.minor;
            break;
        case kAttributeSharedBytes:
            *value = fake.shared_bytes;
            break;
        default:
            return kInvalidValue;
    }
    return call();
}

constexpr std::byte kImage[16] = {};

}  // namespace

std::span<const std::byte> fake_image() { return kImage; }

DriverApi fake_driver() {
    DriverApi api;
    api.init = [](unsigned) { return call(); };
    api.version = [](int* version) {
        *version = 13000;
        return 0;
    };
    api.device_count = [](int* count) {
        *count = fake.devices;
        return call();
    };
    api.device_get = [](int* device, int ordinal) {
        *device = ordinal;
        return call();
    };
    api.device_name = [](char* name, int bytes, int) {
        std::snprintf(name, static_cast<size_t>(bytes), "Emulated GPU");
        return call();
    };
    api.device_attribute = attribute;
    api.context_retain = [](void** context, int) {
        if (const int error = call()) return error;
        *context = &fake;
        ++fake.others_open;
        return 0;
    };
    api.context_release = [](int) {
        --fake.others_open;
        return 0;
    };
    api.context_use = [](void*) { return call(); };
    api.module_load = [](void** module, const void* image) {
        if (const int error = call()) return error;
        if (image != kImage) return kInvalidValue;
        *module = &fake;
        ++fake.others_open;
        return 0;
    };
    api.module_unload = [](void*) {
        --fake.others_open;
        return 0;
    };
    api.module_function = find_function;
    api.function_attribute = [](void*, int which, int value) {
        if (which != kFunctionSharedBytes || value > fake.shared_bytes) return kInvalidValue;
        return call();
    };
    api.allocate = allocate;
    api.release = [](uint64_t address) {
        if (fake.memory.erase(address) == 0) return kInvalidValue;
        std::free(reinterpret_cast<void*>(address));
        return 0;
    };
    api.copy_in = [](uint64_t to, const void* from, size_t bytes, void* stream) {
        if (const int error = call()) return error;
        if (!inside(to, bytes)) return kInvalidValue;
        return enqueue(stream, [=] { std::memcpy(reinterpret_cast<void*>(to), from, bytes); });
    };
    api.copy_out = [](void* to, uint64_t from, size_t bytes, void* stream) {
        if (const int error = call()) return error;
        if (!inside(from, bytes)) return kInvalidValue;
        return enqueue(stream, [=] { std::memcpy(to, reinterpret_cast<const void*>(from), bytes); });
    };
    api.fill = [](uint64_t to, unsigned char value, size_t bytes, void* stream) {
        if (const int error = call()) return error;
        if (!inside(to, bytes)) return kInvalidValue;
        return enqueue(stream, [=] { std::memset(reinterpret_cast<void*>(to), value, bytes); });
    };
    api.stream_create = [](void** stream, unsigned) {
        if (const int error = call()) return error;
        fake.streams.push_back(std::make_unique<Stream>());
        *stream = fake.streams.back().get();
        return 0;
    };
    api.stream_destroy = [](void* stream) {
        std::erase_if(fake.streams, [=](const auto& s) { return s.get() == stream; });
        return 0;
    };
    api.stream_wait = [](void* stream) {
        auto& s = *static_cast<Stream*>(stream);
        for (; !s.operations.empty(); s.operations.pop_front()) s.operations.front()();
        return call();
    };
    api.launch = launch;
    api.error_name = [](int error, const char** name) {
        if (error != 2) return kInvalidValue;
        *name = "CUDA_ERROR_OUT_OF_MEMORY";
        return 0;
    };
    return api;
}

void reset_fake(unsigned seed) {
    fake.random.seed(seed);
    fake.calls = 0;
    fake.failing_call = -1;
    fake.major = 8;
    fake.minor = 0;
    fake.shared_bytes = 163 * 1024;
    fake.devices = 1;
    simt::set_seed(seed);
}

void fail_call(int n, int error) {
    fake.failing_call = fake.calls + n;
    fake.error = error;
}
int calls_made() { return fake.calls; }
int things_open() { return static_cast<int>(fake.memory.size() + fake.streams.size()) + fake.others_open; }
void set_architecture(int major, int minor) {
    fake.major = major;
    fake.minor = minor;
}
void set_shared_bytes(int bytes) { fake.shared_bytes = bytes; }
void set_devices(int count) { fake.devices = count; }

}  // namespace atlas::kernels::cuda::test
