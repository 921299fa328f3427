// Hosts other than the one built against, as far as a plug-in can see them: the executable hides or replaces what the plug-in asks ggml for.
// The host of April 2026 (backend API 2) drives the plug-in through tables declared here by slot number, apart from src/host/abi, so that a
// slip there is not repeated in its own test.
// Usage: v2_host PLUGIN CASE. Status 0: the plug-in did what that host needs. Taken are april and future (a later version whose interface
// is the same); refused drifted (it says what april says, and its functions read other tables), resized (another tensor), no_2d,
// contradictory, old and no_version.

#include <dlfcn.h>
#include <ggml-backend.h>
#include <ggml.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string_view>
#include <vector>

namespace {

std::string_view g_host = "april";

bool hidden(const char* symbol) {
    const std::string_view name(symbol);
    if (name == "ggml_backend_buft_alloc_buffer_n")
        return g_host == "april" || g_host == "drifted" || g_host == "no_2d";
    if (name == "ggml_backend_tensor_set_2d") return g_host == "no_2d" || g_host == "contradictory";
    return false;
}

using Slot = void*;

/** Function in slot `index` of a table of pointers, as a function of type F. */
template <typename F>
F* slot(void* table, size_t index) {
    return reinterpret_cast<F*>(static_cast<Slot*>(table)[index]);
}

// Slots of April 2026, counted from the start of each object.
constexpr size_t kRegistryTable = 1;  // after int api_version and its padding: name, device count, device, proc address
constexpr size_t kBackendTable = 1;   // after the guid pointer
enum RegistrySlot : size_t { kRegistryName, kDeviceCount, kGetDevice, kProcAddress };
enum DeviceSlot : size_t {
    kDeviceName,
    kDescription,
    kMemory,
    kType,
    kProps,
    kInitBackend,
    kBufferType,
    kSupportsOp = 9,
    kSupportsBuft
};
enum BufferTypeSlot : size_t { kTypeName, kAllocBuffer, kAlignment, kMaxSize, kAllocSize, kIsHost, kTypeDevice };
enum BufferSlot : size_t {
    kFreeBuffer,
    kBase,
    kInitTensor,
    kMemset,
    kSet,
    kGet,
    kSet2d,
    kGet2d,
    kCopy,
    kClear,
    kReset
};
enum BackendSlot : size_t { kBackendName, kFreeBackend, kSynchronize = 7, kGraphCompute = 12 };

/** Device properties before caps.mmap_support was added, with a fence behind. */
struct AprilProps {
    const char* name;
    const char* description;
    size_t memory_free;
    size_t memory_total;
    int type;
    const char* device_id;
    bool async, host_buffer, buffer_from_host_ptr, events;
};
struct FencedProps {
    AprilProps props{};
    uint64_t fence = 0x5a5a5a5a5a5a5a5aull;
};

int g_failures = 0;

void expect(bool right, const char* what) {
    if (right) return;
    std::fprintf(stderr, "v2_host: %s\n", what);
    ++g_failures;
}

/** Places the tensors one after the other in a buffer of the plug-in, as the host's allocator does. */
void place(ggml_context* context, ggml_backend_buffer_t buffer, size_t alignment) {
    auto* base = static_cast<char*>(slot<void*(ggml_backend_buffer_t)>(buffer, kBase)(buffer));
    auto* init = slot<ggml_status(ggml_backend_buffer_t, ggml_tensor*)>(buffer, kInitTensor);
    for (ggml_tensor* tensor = ggml_get_first_tensor(context); tensor; tensor = ggml_get_next_tensor(context, tensor)) {
        tensor->buffer = buffer;
        if (tensor->view_src) {
            tensor->data = static_cast<char*>(tensor->view_src->data) + tensor->view_offs;
        } else {
            tensor->data = base;
            base += (ggml_nbytes(tensor) + alignment - 1) / alignment * alignment;
        }
        if (init) expect(init(buffer, tensor) == GGML_STATUS_SUCCESS, "init_tensor failed");
    }
}

/** Writes rows into a paged cache, attends over it and compares with softmax(q·k)·v in float64. */
void attend(ggml_backend_buffer_type_t type, void* backend) {
    constexpr int64_t kDim = 64;
    constexpr int64_t kCells = 256;
    constexpr int64_t kUsed = 100;
    ggml_context* context = ggml_init({64 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true});
    ggml_tensor* caches[2];
    ggml_tensor* rows[2];
    ggml_tensor* written[2];
    ggml_tensor* cells = ggml_new_tensor_1d(context, GGML_TYPE_I64, kUsed);
    for (int i = 0; i < 2; ++i) {
        caches[i] = ggml_new_tensor_2d(context, GGML_TYPE_F32, kDim, kCells);
        ggml_set_name(caches[i], i == 0 ? "cache_k_l0" : "cache_v_l0");
        rows[i] = ggml_new_tensor_2d(context, GGML_TYPE_F32, kDim, kUsed);
        written[i] = ggml_set_rows(context, caches[i], rows[i], cells);
    }
    ggml_tensor* query = ggml_new_tensor_4d(context, GGML_TYPE_F32, kDim, 1, 1, 1);
    ggml_tensor* mask = ggml_new_tensor_4d(context, GGML_TYPE_F16, kCells, 1, 1, 1);
    ggml_tensor* views[2];
    for (int i = 0; i < 2; ++i) {
        views[i] = ggml_view_4d(context, caches[i], kDim, kCells, 1, 1, caches[i]->nb[1], caches[i]->nb[1],
                                caches[i]->nb[1] * kCells, 0);
    }
    const float scale = 1.0f / std::sqrt(static_cast<float>(kDim));
    ggml_tensor* result = ggml_flash_attn_ext(context, query, views[0], views[1], mask, scale, 0.0f, 0.0f);

    const size_t alignment = slot<size_t(ggml_backend_buffer_type_t)>(type, kAlignment)(type);
    expect(alignment >= 16 && alignment <= 4096 && (alignment & (alignment - 1)) == 0,
           "get_alignment is not in its slot");
    ggml_backend_buffer_t buffer =
        slot<ggml_backend_buffer_t(ggml_backend_buffer_type_t, size_t)>(type, kAllocBuffer)(type, 1 << 20);
    if (!buffer) return expect(false, "alloc_buffer failed");
    place(context, buffer, alignment);

    auto* set = slot<void(ggml_backend_buffer_t, ggml_tensor*, const void*, size_t, size_t)>(buffer, kSet);
    auto* get = slot<void(ggml_backend_buffer_t, const ggml_tensor*, void*, size_t, size_t)>(buffer, kGet);
    std::vector<float> values[3];  // K, V, query
    for (int i = 0; i < 3; ++i) {
        values[i].resize(static_cast<size_t>(i < 2 ? kDim * kUsed : kDim));
        for (size_t j = 0; j < values[i].size(); ++j)
            values[i][j] = std::sin(0.37f * static_cast<float>(j * (i + 2) + i));
        ggml_tensor* target = i < 2 ? rows[i] : query;
        set(buffer, target, values[i].data(), 0, ggml_nbytes(target));
    }
    std::vector<int64_t> where(kUsed);
    for (int64_t i = 0; i < kUsed; ++i)
        where[static_cast<size_t>(i)] = (i * 37) % kCells;  // not in order; 37 and 256 share no factor
    std::vector<ggml_fp16_t> hide(kCells, ggml_fp32_to_fp16(-INFINITY));
    for (const int64_t cell : where) hide[static_cast<size_t>(cell)] = 0;
    set(buffer, cells, where.data(), 0, ggml_nbytes(cells));
    set(buffer, mask, hide.data(), 0, ggml_nbytes(mask));

    ggml_cgraph* graph = ggml_new_graph(context);
    ggml_build_forward_expand(graph, written[0]);
    ggml_build_forward_expand(graph, written[1]);
    ggml_build_forward_expand(graph, result);
    auto* compute = slot<ggml_status(void*, ggml_cgraph*)>(static_cast<Slot*>(backend) + kBackendTable, kGraphCompute);
    expect(compute(backend, graph) == GGML_STATUS_SUCCESS, "graph_compute failed");
    if (auto* synchronize = slot<void(void*)>(static_cast<Slot*>(backend) + kBackendTable, kSynchronize))
        synchronize(backend);

    std::vector<float> output(kDim);
    get(buffer, result, output.data(), 0, ggml_nbytes(result));
    double sum = 0;
    std::vector<double> expected(kDim, 0.0);
    for (size_t row = 0; row < kUsed; ++row) {
        double score = 0;
        for (size_t d = 0; d < kDim; ++d) score += static_cast<double>(values[0][row * kDim + d]) * values[2][d];
        const double weight = std::exp(score * scale);
        sum += weight;
        for (size_t d = 0; d < kDim; ++d) expected[d] += weight * values[1][row * kDim + d];
    }
    double worst = 0;
    for (size_t d = 0; d < kDim; ++d) worst = std::fmax(worst, std::fabs(expected[d] / sum - output[d]));
    expect(worst < 1e-5, "attention differs from the float64 reference by 1e-5 or more");

    // The two entries that April 2026 put into the middle of the table: every second row of the cache.
    float pairs[2] = {11.0f, 13.0f};
    float back[2] = {};
    const size_t stride = 2 * caches[0]->nb[1];
    auto* set_2d = slot<void(ggml_backend_buffer_t, ggml_tensor*, const void*, size_t, size_t, size_t, size_t, size_t)>(
        buffer, kSet2d);
    auto* get_2d = slot<void(ggml_backend_buffer_t, const ggml_tensor*, void*, size_t, size_t, size_t, size_t, size_t)>(
        buffer, kGet2d);
    if (set_2d && get_2d) {
        set_2d(buffer, caches[0], pairs, 0, sizeof(float), 2, stride, sizeof(float));
        get_2d(buffer, caches[0], back, 0, sizeof(float), 2, stride, sizeof(float));
        expect(std::memcmp(pairs, back, sizeof pairs) == 0, "rows written by set_tensor_2d do not come back");
        get(buffer, caches[0], back, stride, sizeof(float));
        expect(back[0] == pairs[1], "set_tensor_2d wrote elsewhere than its stride says");
    }
    slot<void(ggml_backend_buffer_t, uint8_t)>(buffer, kClear)(buffer, 0);
    get(buffer, caches[0], back, stride, sizeof(float));
    expect(back[0] == 0.0f, "clear left data behind");
    ggml_backend_buffer_free(buffer);
    ggml_free(context);
}

void drive(void* registry) {
    expect(*static_cast<int*>(registry) == 2, "api_version is not 2");
    void* table = static_cast<Slot*>(registry) + kRegistryTable;
    expect(std::strcmp(slot<const char*(void*)>(table, kRegistryName)(registry), "ATLAS") == 0, "registry name");
    expect(slot<size_t(void*)>(table, kDeviceCount)(registry) == 1, "device count");
    void* device = slot<void*(void*, size_t)>(table, kGetDevice)(registry, 0);
    if (std::strcmp(slot<const char*(void*)>(device, kDeviceName)(device), "ATLAS0") != 0) {
        return expect(false, "device name");  // another device has the host's own buffer type, of this ggml's layout
    }
    FencedProps fenced;
    slot<void(void*, AprilProps*)>(device, kProps)(device, &fenced.props);
    expect(fenced.fence == FencedProps{}.fence, "get_props wrote behind the struct of April 2026");
    expect(fenced.props.memory_total > 0 && !fenced.props.async && !fenced.props.events, "props");

    void* type = slot<void*(void*)>(device, kBufferType)(device);
    expect(!slot<bool(void*)>(type, kIsHost)(type), "is_host is not in its slot");
    expect(static_cast<Slot*>(type)[kMaxSize] == nullptr && static_cast<Slot*>(type)[kAllocSize] == nullptr,
           "optional slots are not empty");
    expect(slot<bool(void*, void*)>(device, kSupportsBuft)(device, type), "own buffers are not supported");
    void* backend = slot<void*(void*, const char*)>(device, kInitBackend)(device, nullptr);
    if (!backend) return expect(false, "init_backend failed");
    attend(static_cast<ggml_backend_buffer_type_t>(type), backend);
    slot<void(void*)>(static_cast<Slot*>(backend) + kBackendTable, kFreeBackend)(backend);
}

void* real_dlsym(void* handle, const char* symbol) {
    using Lookup = void*(void*, const char*);
    static Lookup* real = [] {
        for (const char* version : {"GLIBC_2.34", "GLIBC_2.17", "GLIBC_2.2.5"}) {
            if (void* found = dlvsym(RTLD_NEXT, "dlsym", version)) return reinterpret_cast<Lookup*>(found);
        }
        return static_cast<Lookup*>(nullptr);
    }();
    return real ? real(handle, symbol) : nullptr;
}

/** The function of libggml-base that one below stands before. */
template <typename F>
F* original(const char* name) {
    static void* base = dlopen("libggml-base.so.0", RTLD_LAZY | RTLD_NOLOAD);
    return reinterpret_cast<F*>(real_dlsym(base, name));
}

/** Whether a buffer type is the plug-in's with the table of April 2026; other types are the real host's. */
bool is_april(ggml_backend_buffer_type_t type) {
    return g_host == "april" && std::strcmp(slot<const char*(void*)>(type, kTypeName)(type), "ATLAS0") == 0;
}

}  // namespace

#define EXPORTED __attribute__((visibility("default")))

// The plug-in binds to these before those of libggml-base and libc.
extern "C" {

EXPORTED const char* ggml_version() {
    if (g_host == "no_version") return "nonsense";
    if (g_host == "old") return "0.20.0";
    return g_host == "future" ? "0.99.0" : "0.21.1";
}

EXPORTED size_t ggml_tensor_overhead() {
    static auto* real = original<size_t()>("ggml_tensor_overhead");
    return real() + (g_host == "resized" ? 16 : 0);
}

// What the host of April 2026 has in its own libggml-base: buffer types without the two batch entries.
EXPORTED ggml_backend_dev_t ggml_backend_buft_get_device(ggml_backend_buffer_type_t type) {
    static auto* real = original<ggml_backend_dev_t(ggml_backend_buffer_type_t)>("ggml_backend_buft_get_device");
    return is_april(type) ? static_cast<ggml_backend_dev_t>(reinterpret_cast<Slot*>(type)[kTypeDevice]) : real(type);
}

EXPORTED size_t ggml_backend_buft_get_alignment(ggml_backend_buffer_type_t type) {
    static auto* real = original<size_t(ggml_backend_buffer_type_t)>("ggml_backend_buft_get_alignment");
    return is_april(type) ? slot<size_t(void*)>(type, kAlignment)(type) : real(type);
}

EXPORTED size_t ggml_backend_buft_get_alloc_size(ggml_backend_buffer_type_t type, const ggml_tensor* tensor) {
    using Function = size_t(ggml_backend_buffer_type_t, const ggml_tensor*);
    static auto* real = original<Function>("ggml_backend_buft_get_alloc_size");
    return is_april(type) ? ggml_nbytes(tensor) : real(type, tensor);
}

EXPORTED bool ggml_backend_buft_is_host(ggml_backend_buffer_type_t type) {
    static auto* real = original<bool(ggml_backend_buffer_type_t)>("ggml_backend_buft_is_host");
    return is_april(type) ? slot<bool(void*)>(type, kIsHost)(type) : real(type);
}

EXPORTED ggml_backend_buffer_t ggml_backend_buft_alloc_buffer(ggml_backend_buffer_type_t type, size_t size) {
    using Function = ggml_backend_buffer_t(ggml_backend_buffer_type_t, size_t);
    static auto* real = original<Function>("ggml_backend_buft_alloc_buffer");
    return is_april(type) ? slot<ggml_backend_buffer_t(void*, size_t)>(type, kAllocBuffer)(type, size)
                          : real(type, size);
}

EXPORTED void* dlsym(void* handle, const char* symbol) noexcept {
    return handle == RTLD_DEFAULT && hidden(symbol) ? nullptr : real_dlsym(handle, symbol);
}
}

int main(int argc, char** argv) {
    if (argc != 3) {
        std::fprintf(stderr, "usage: v2_host PLUGIN april|future|drifted|resized|no_2d|contradictory|old|no_version\n");
        return 2;
    }
    g_host = argv[2];
    void* library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        std::fprintf(stderr, "v2_host: %s\n", dlerror());
        return 1;
    }
    void* entry = dlsym(library, "ggml_backend_init");
    if (!entry) return 1;
    void* registry = reinterpret_cast<void* (*)()>(entry)();
    if (g_host == "april") {
        expect(registry != nullptr, "the plug-in declined a host of April 2026");
        if (registry) drive(registry);
    } else if (g_host == "future") {
        expect(registry != nullptr, "the plug-in declined a later host with the same interface");
        if (registry) expect(*static_cast<int*>(registry) == 3, "api_version is not 3");
    } else {
        expect(registry == nullptr, "the plug-in accepted a host that it cannot know");
    }
    if (g_failures == 0) std::printf("v2_host: %s as it should be\n", argv[2]);
    return g_failures == 0 ? 0 : 1;
}
