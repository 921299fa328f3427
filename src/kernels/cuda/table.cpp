#include "kernels/cuda/table.h"

#include <memory>
#include <mutex>
#include <string_view>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/fatbin.h"
#include "kernels/description.h"
#include "kernels/kernel_table.h"

namespace atlas::kernels {
namespace cuda {
namespace {

struct Chosen {
    std::mutex mutex;  ///< of what is below, and of every call on the device
    DriverApi api;
    std::span<const std::byte> image = fatbin();
    bool loaded = false;  ///< `api` is filled
    std::unique_ptr<Device> device;
};

Chosen& chosen() {
    // Not destroyed: at the end of a process the driver may be gone before us.
    static auto* instance = new Chosen;
    return *instance;
}

Status open_locked(Chosen& c) {
    if (c.device) return Status::ok();
    if (c.image.empty()) return Status::unsupported("CUDA: this build has no kernels (nvcc was not there)");
    if (!c.loaded) {
        if (Status status = load_driver(&c.api); !status.is_ok()) return status;
        c.loaded = true;
    }
    return Device::open(c.api, 0, c.image, &c.device);
}

Status attention_entry(const AttentionArgs& args, int /*n_threads*/) {
    Chosen& c = chosen();
    const std::lock_guard lock(c.mutex);
    return cuda::attention(*c.device, args);
}

const char* variant_entry() { return "cuda"; }

}  // namespace

void use_driver(const DriverApi* api, std::span<const std::byte> image) {
    Chosen& c = chosen();
    const std::lock_guard lock(c.mutex);
    c.device.reset();
    c.loaded = api != nullptr;
    c.api = api ? *api : DriverApi{};
    c.image = api ? image : fatbin();
}

Status open_device(Device** device) {
    Chosen& c = chosen();
    const std::lock_guard lock(c.mutex);
    if (Status status = open_locked(c); !status.is_ok()) return status;
    *device = c.device.get();
    return Status::ok();
}

std::string describe() {
    Chosen& c = chosen();
    const std::lock_guard lock(c.mutex);
    std::string text = c.image.empty() ? "no kernels in this build (nvcc was not there)"
                                       : std::string("kernels for ") + fatbin_architectures();
    DriverApi api = c.api;
    Status status = c.loaded ? Status::ok() : load_driver(&api);
    int version = 0;
    int devices = 0;
    if (!status.is_ok()) {
        // Its line begins with the name that stands before the whole text.
        constexpr std::string_view kName = "CUDA: ";
        text += "; " + status.message().substr(status.message().starts_with(kName) ? kName.size() : 0);
    } else if (char buffer[32]; const int error = api.init(0)) {
        text += std::string("; the NVIDIA driver does not start: ") + name_of_error(api, error, buffer);
    } else if (api.version(&version) == 0 && api.device_count(&devices) == 0) {
        text += "; driver for CUDA " + std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10) +
                ", " + std::to_string(devices) + (devices == 1 ? " device" : " devices");
    }
    return text + "; not used by graphs yet";
}

}  // namespace cuda

const char* cuda_description() {
    static const std::string text = cuda::describe();
    return text.c_str();
}

/**
 * Attention is the device's, over host memory; all other entries are the CPU's, whose data is there.
 */
Status cuda_table(const Table** table) {
    static const Table entries = [] {
        Table t = cpu_table();
        t.variant = cuda::variant_entry;
        t.check_attention = cuda::check_attention;
        t.attention = cuda::attention_entry;
        return t;
    }();
    cuda::Chosen& c = cuda::chosen();
    const std::lock_guard lock(c.mutex);
    if (Status status = cuda::open_locked(c); !status.is_ok()) return status;
    *table = &entries;
    return Status::ok();
}

}  // namespace atlas::kernels
