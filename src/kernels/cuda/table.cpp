#include "kernels/cuda/table.h"

#include <memory>
#include <mutex>
#include <string_view>

#include "base/log.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/codes.h"
#include "kernels/cuda/fatbin.h"
#include "kernels/cuda/products.h"
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
    int64_t fallbacks = 0;  ///< calls that the CPU did instead
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

/**
 * What the device cannot do (sizes, a failure that these entries have no way to tell) the CPU does, which is said once; attention of the same device will fail
 * with a status.
 */
void fall_back(const Status& status) {
    static std::once_flag once;
    std::call_once(once, [&] { log().warn("{}; the CPU does it", status.message()); });
}
template <class Call>
Status on_device(Call call) {
    Chosen& c = chosen();
    const std::lock_guard lock(c.mutex);
    Status status = call(*c.device);
    if (!status.is_ok()) {
        ++c.fallbacks;
        fall_back(status);
    }
    return status;
}
bool encode_codes_entry(const CodeShape& shape, const float* keys, const float* values, std::byte* page) {
    bool finite = false;
    const Status status =
        on_device([&](Device& device) { return cuda::encode_codes(device, shape, keys, values, page, &finite); });
    return status.is_ok() ? finite : cpu_table().encode_codes(shape, keys, values, page);
}
void quantise_queries_entry(const float* exact, int64_t rows, int64_t d, int8_t* codes, float* scale, float* offset,
                            float* squares) {
    const Status status = on_device(
        [&](Device& device) { return cuda::quantise_queries(device, exact, rows, d, codes, scale, offset, squares); });
    if (!status.is_ok()) cpu_table().quantise_queries(exact, rows, d, codes, scale, offset, squares);
}
void rotate_rows_entry(const float* signs, int64_t rows, int64_t d, float* x) {
    const Status status = on_device([&](Device& device) { return cuda::rotate_rows(device, signs, rows, d, x); });
    if (!status.is_ok()) cpu_table().rotate_rows(signs, rows, d, x);
}
void score_codes_entry(const CodeShape& shape, const CodeQueries& queries, const std::byte* page, float* logits) {
    const Status status =
        on_device([&](Device& device) { return cuda::score_codes(device, shape, queries, page, logits); });
    if (!status.is_ok()) cpu_table().score_codes(shape, queries, page, logits);
}

void multiply_weights_entry(const WeightProduct& product, int64_t begin, int64_t end) {
    ProductType type;
    if (product_type_of(product.weights.type, &type)) {
        const Status status =
            on_device([&](Device& device) { return cuda::multiply_weights(device, product, begin, end); });
        if (status.is_ok()) return;
    }
    cpu_table().multiply_weights(product, begin, end);
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

int64_t fallbacks() {
    Chosen& c = chosen();
    const std::lock_guard lock(c.mutex);
    return c.fallbacks;
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
 * Attention, what makes and scores codes of keys, and products with weights of the types of product_type_of are the device's, over host memory; all else is the
 * CPU's, whose data is there.
 */
Status cuda_table(const Table** table) {
    static const Table entries = [] {
        Table t = cpu_table();
        t.variant = cuda::variant_entry;
        t.check_attention = cuda::check_attention;
        t.attention = cuda::attention_entry;
        t.multiply_weights = cuda::multiply_weights_entry;
        t.encode_codes = cuda::encode_codes_entry;
        t.quantise_queries = cuda::quantise_queries_entry;
        t.rotate_rows = cuda::rotate_rows_entry;
        t.score_codes = cuda::score_codes_entry;
        return t;
    }();
    cuda::Chosen& c = cuda::chosen();
    const std::lock_guard lock(c.mutex);
    if (Status status = cuda::open_locked(c); !status.is_ok()) return status;
    *table = &entries;
    return Status::ok();
}

}  // namespace atlas::kernels
