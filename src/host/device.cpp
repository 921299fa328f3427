#include "host/device.h"

#include <cstdio>
#include <cstring>
#include <new>
#include <string>
#include <string_view>
#include <utility>

#include "base/log.h"
#include "base/per_thread.h"
#include "host/abi/interfaces.h"
#include "host/buffers/owner_buffer.h"
#include "host/ops/table.h"
#include "host/public_functions.h"
#include "kernels/description.h"
#include "kernels/kernel_table.h"
#include "runtime/plugin_runtime.h"

namespace atlas::host {
namespace {

abi::Layout g_layout = abi::Layout::kV3;

constexpr size_t kAnyModel = size_t{1} << 40;

bool own_weights() { return runtime::plugin_runtime()->options().weights == WeightsMode::kOwn; }
bool owner_mode() { return runtime::plugin_runtime()->options().device == DeviceMode::kOwner; }

const char* device_name(ggml_backend_dev_t) { return owner_mode() ? "ATLAS0" : "ATLAS"; }
const char* device_description(ggml_backend_dev_t) {
    return owner_mode() ? "Atlas (weights, attention, KV cache)" : "Atlas attention";
}

/** Bytes of a line of /proc/meminfo, 0 when it is not there. */
size_t memory_line(const char* name) {
    std::FILE* file = std::fopen("/proc/meminfo", "r");
    if (!file) return 0;
    char line[128];
    size_t kib = 0;
    while (std::fgets(line, sizeof line, file)) {
        if (std::strncmp(line, name, std::strlen(name)) == 0 &&
            std::sscanf(line + std::strlen(name), ": %zu", &kib) == 1)
            break;
    }
    std::fclose(file);
    return kib * 1024;
}

void device_memory(ggml_backend_dev_t, size_t* free, size_t* total) {
    // The host fits layers to what is reported: weights, compute buffers, caches and 1 GiB to spare together. ATLAS_KV_RAM is for caches alone; were it
    // reported, a model larger than it would be left to the CPU, and its caches with it, without any limit.
    *total = memory_line("MemTotal");
    *free = memory_line("MemAvailable");
    // What memory has no room for goes to disk, so that a long context fits.
    if (kv::Pager* pager = owner_mode() ? kv_pager() : nullptr) {
        *total += pager->disk().stats().in_use + pager->disk().room();
        *free += pager->disk().room();
    }
    // Weights that memory has no room for stay in their file, so that no layer has to go to another device; nor, with ATLAS_RAM, has the context to be
    // shorter, for which they give way.
    if (runtime::plugin_runtime()->streamer()) {
        *total += kAnyModel;
        *free += kAnyModel;
    }
}

enum ggml_backend_dev_type device_type(ggml_backend_dev_t) {
    return owner_mode() ? GGML_BACKEND_DEVICE_TYPE_GPU : GGML_BACKEND_DEVICE_TYPE_ACCEL;
}

void device_props(ggml_backend_dev_t device, ggml_backend_dev_props* props) {
    props->name = device_name(device);
    props->description = device_description(device);
    device_memory(device, &props->memory_free, &props->memory_total);
    props->type = device_type(device);
    props->device_id = nullptr;
    props->caps = {};
    props->caps.mmap_support = true;
    props->caps.buffer_from_host_ptr = owner_mode() && own_weights();
}

ggml_backend_t device_init_backend(ggml_backend_dev_t device, const char* parameters) {
    return create_backend(device, parameters && std::string_view(parameters) == kSelfTest);
}

ggml_backend_buffer_type_t device_buffer_type(ggml_backend_dev_t) {
    return owner_mode() ? owner_buffer_type() : ggml_backend_cpu_buffer_type();
}

bool device_supports_op(ggml_backend_dev_t, const ggml_tensor* op) {
    try {
        return supports_op(op, owner_mode());
    } catch (const std::bad_alloc&) {
        return false;
    }
}

bool device_supports_buft(ggml_backend_dev_t, ggml_backend_buffer_type_t type) {
    // The CPU's memory is read in place: no copies of queries and masks.
    return (owner_mode() && type == owner_buffer_type()) || ggml_backend_buft_is_host(type);
}

void mapping_ends(ggml_backend_buffer_t buffer) {
    const auto* const memory = static_cast<const std::byte*>(reinterpret_cast<abi::Buffer*>(buffer)->context);
    if (weights::Streamer* streamer = runtime::plugin_runtime()->streamer()) streamer->remove(memory);
    if (weights::FormatStore* formats = runtime::plugin_runtime()->formats()) formats->remove(memory);
}

/** Weights are read where the model file is mapped; or, where memory has no room for it, from the file; or what they are rounded to is. */
ggml_backend_buffer_t device_buffer_from_host_ptr(ggml_backend_dev_t, void* memory, size_t size, size_t) {
    ggml_backend_buffer_t buffer = ggml_backend_cpu_buffer_from_ptr(memory, size);
    weights::Streamer* streamer = runtime::plugin_runtime()->streamer();
    weights::FormatStore* formats = runtime::plugin_runtime()->formats();
    if (!buffer || (!streamer && !formats)) return buffer;
    try {
        if (streamer) streamer->add(static_cast<const std::byte*>(memory), size);
        if (formats) formats->add(static_cast<const std::byte*>(memory), size);
        // The memory is not the buffer's, which therefore has nothing to do itself when it ends.
        reinterpret_cast<abi::Buffer*>(buffer)->iface.free_buffer = mapping_ends;
    } catch (const std::bad_alloc&) {
        log().warn("weights: {} bytes count in no budget and are not rounded: no memory left", size);
    }
    return buffer;
}

const char* registry_name(ggml_backend_reg_t) { return "ATLAS"; }
size_t registry_device_count(ggml_backend_reg_t) { return 1; }
ggml_backend_dev_t registry_device(ggml_backend_reg_t, size_t) { return atlas_device(); }

/** For `-sm row`, which loads no model on devices without it. There is one device, and no weight goes to it: nothing is to be split. */
ggml_backend_buffer_type_t split_buffer_type(int, const float*) { return owner_buffer_type(); }

/** For `atlas info`: the result of `make`, valid until the thread's next call; "" without memory for it. */
template <typename Make>
const char* text_of(const Make& make) noexcept {
    thread_local PerThread<std::string> text;
    try {
        text.get() = make(*runtime::plugin_runtime());
        return text.get().c_str();
    } catch (const std::bad_alloc&) {
        return "";
    }
}

const char* statistics_text() {
    return text_of([](const runtime::Runtime& runtime) { return runtime.statistics(); });
}

const char* asked_text() {
    return text_of([](const runtime::Runtime& runtime) { return runtime::what_is_asked(runtime.options()); });
}

const char* backend_api_text() { return g_layout == abi::Layout::kV3 ? "3" : "2"; }

void* registry_proc_address(ggml_backend_reg_t, const char* name) {
    const std::string_view wanted(name);
    if (wanted == "ggml_backend_set_n_threads") return reinterpret_cast<void*>(&backend_set_n_threads);
    if (wanted == "ggml_backend_set_abort_callback") return reinterpret_cast<void*>(&backend_set_abort_callback);
    if (wanted == "ggml_backend_split_buffer_type" && owner_mode()) return reinterpret_cast<void*>(&split_buffer_type);
    // Read by `atlas info`.
    if (wanted == "atlas_kernels") return reinterpret_cast<void*>(&kernels::kernel_description);
    if (wanted == "atlas_cuda") return reinterpret_cast<void*>(&kernels::cuda_description);
    if (wanted == "atlas_asked") return reinterpret_cast<void*>(&asked_text);
    if (wanted == "atlas_statistics") return reinterpret_cast<void*>(&statistics_text);
    if (wanted == "atlas_backend_api") return reinterpret_cast<void*>(&backend_api_text);
    return public_function(wanted);
}

}  // namespace

abi::Layout host_layout() { return g_layout; }
void set_host_layout(abi::Layout layout) { g_layout = layout; }

kv::Budget& kv_budget() { return runtime::plugin_runtime()->kv_budget(); }
kv::Pager* kv_pager() { return runtime::plugin_runtime()->pager(); }
kv::WriteClock& write_clock() { return runtime::plugin_runtime()->write_clock(); }

ggml_backend_reg_t atlas_registry() {
    static abi::Registry registry{static_cast<int>(g_layout),
                                  {registry_name, registry_device_count, registry_device, registry_proc_address},
                                  nullptr};
    return reinterpret_cast<ggml_backend_reg_t>(&registry);
}

ggml_backend_dev_t atlas_device() {
    static abi::Device device = [] {
        abi::Device created{};
        created.iface.get_name = device_name;
        created.iface.get_description = device_description;
        created.iface.get_memory = device_memory;
        created.iface.get_type = device_type;
        created.iface.get_props = device_props;
        created.iface.init_backend = device_init_backend;
        created.iface.get_buffer_type = device_buffer_type;
        if (own_weights()) created.iface.buffer_from_host_ptr = reinterpret_cast<void*>(&device_buffer_from_host_ptr);
        created.iface.supports_op = device_supports_op;
        created.iface.supports_buft = device_supports_buft;
        created.registry = atlas_registry();
        return created;
    }();
    return reinterpret_cast<ggml_backend_dev_t>(&device);
}

}  // namespace atlas::host
