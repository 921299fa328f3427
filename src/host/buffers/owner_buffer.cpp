#include "host/buffers/owner_buffer.h"

#include <ggml.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <string_view>
#include <vector>

#include "base/log.h"
#include "base/options.h"
#include "host/abi/interfaces.h"
#include "host/device.h"
#include "host/graph/whose.h"

namespace atlas::host {
namespace {

// Tensors start on their own memory pages, so that one can be made accessible without its neighbour.
constexpr size_t kAlignment = 4096;
constexpr std::string_view kCachePrefixes[] = {"cache_k", "cache_v"};

struct OwnerBuffer {
    std::byte* base = nullptr;
    size_t reserved = 0;
    std::mutex mutex;  // guards all below
    bool all_ordinary = false;
    std::vector<std::pair<std::byte*, size_t>> ordinary;  // opened one by one, while all_ordinary is false
    std::map<const std::byte*, std::unique_ptr<kv::PageTable>> paged;  // by address
    kv::RamTier tier{kv_budget()};

    ~OwnerBuffer() {
        paged.clear();
        if (base) munmap(base, reserved);
    }
};

size_t round_up(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

OwnerBuffer& context_of(ggml_backend_buffer_t buffer) {
    return *static_cast<OwnerBuffer*>(reinterpret_cast<abi::Buffer*>(buffer)->context);
}

const ggml_tensor* root_of(const ggml_tensor* tensor) {
    while (tensor->view_src) tensor = tensor->view_src;
    return tensor;
}

bool has_cache_name(const ggml_tensor* tensor) {
    const std::string_view name(tensor->name);
    for (const std::string_view prefix : kCachePrefixes) {
        if (name.starts_with(prefix)) return true;
    }
    return false;
}

bool wants_pages(const ggml_tensor* tensor) {
    // What an operation makes of a cache is named after it ("cache_k_l0 (view) (copy)"), and read by pointer.
    if (tensor->op != GGML_OP_NONE || !ggml_is_contiguous(tensor)) return false;
    return has_cache_name(tensor) || (options().page_all && tensor->ne[1] > 1);
}

bool make_ordinary(OwnerBuffer& context, const ggml_tensor* tensor) {
    if (context.all_ordinary) return true;
    std::byte* begin = static_cast<std::byte*>(tensor->data);
    size_t bytes = round_up(ggml_nbytes(tensor));
    if (context.paged.empty()) {
        // The usual case, a compute buffer: open it whole, once, instead of asking the kernel per tensor.
        begin = context.base;
        bytes = context.reserved;
    }
    bytes = std::min(bytes, static_cast<size_t>(context.base + context.reserved - begin));
    if (mprotect(begin, bytes, PROT_READ | PROT_WRITE) == 0) {
        if (context.paged.empty()) {
            context.all_ordinary = true;
        } else {
            context.ordinary.emplace_back(begin, bytes);
        }
        return true;
    }
    log().error("buffer of {} bytes: the system gave no memory for tensor '{}' ({} bytes)", context.reserved,
                tensor->name, bytes);
    return false;
}

void buffer_free(ggml_backend_buffer_t buffer) { delete &context_of(buffer); }

void* buffer_base(ggml_backend_buffer_t buffer) { return context_of(buffer).base; }

ggml_status init_tensor(ggml_backend_buffer_t buffer, ggml_tensor* tensor) {
    OwnerBuffer& context = context_of(buffer);
    if (tensor->view_src != nullptr || ggml_nbytes(tensor) == 0 || context.base == nullptr) return GGML_STATUS_SUCCESS;
    const std::lock_guard lock(context.mutex);
    auto* address = static_cast<const std::byte*>(tensor->data);
    if (!wants_pages(tensor)) return make_ordinary(context, tensor) ? GGML_STATUS_SUCCESS : GGML_STATUS_ALLOC_FAILED;
    const size_t row_bytes = tensor->nb[1];
    const int64_t rows = static_cast<int64_t>(ggml_nbytes(tensor) / row_bytes);
    auto found = context.paged.find(address);
    // A buffer's ranges can be handed out again for another tensor of the same place: start afresh only if the shape changed.
    if (found == context.paged.end() || found->second->row_bytes() != row_bytes || found->second->rows() != rows) {
        auto pages = std::make_unique<kv::PageTable>(context.tier, write_clock(), row_bytes, rows);
        found = context.paged.insert_or_assign(address, std::move(pages)).first;
    }
    if (context.all_ordinary) {
        mprotect(tensor->data, round_up(ggml_nbytes(tensor)), PROT_NONE);
    }
    tensor->extra = found->second.get();
    return GGML_STATUS_SUCCESS;
}

ggml_status buffer_init_tensor(ggml_backend_buffer_t buffer, ggml_tensor* tensor) {
    try {
        return init_tensor(buffer, tensor);
    } catch (const std::bad_alloc&) {
        log().error("'{}' of {} bytes: no memory for its page table", tensor->name, ggml_nbytes(tensor));
        return GGML_STATUS_ALLOC_FAILED;
    }
}

/** The host's functions for these return nothing, so the log is the only place where a failure can be told. */
template <typename Work>
void reported(const char* operation, const ggml_tensor* tensor, Work work) {
    try {
        const Status status = work();
        if (!status.is_ok()) log().error("{} of '{}': {}", operation, tensor->name, status.to_string());
    } catch (const std::bad_alloc&) {
        log().error("{} of '{}': no memory left", operation, tensor->name);
    }
}

void buffer_memset_tensor(ggml_backend_buffer_t, ggml_tensor* tensor, uint8_t value, size_t offset, size_t size) {
    const Placement place = placement_of(tensor);
    if (place.pages) {
        reported("memset", tensor, [&] { return place.pages->fill(place.offset + offset, value, size); });
    } else {
        std::memset(static_cast<std::byte*>(tensor->data) + offset, value, size);
    }
}

void buffer_set_tensor(ggml_backend_buffer_t, ggml_tensor* tensor, const void* data, size_t offset, size_t size) {
    const Placement place = placement_of(tensor);
    if (place.pages) {
        reported("write", tensor, [&] { return place.pages->write(place.offset + offset, data, size); });
    } else {
        std::memcpy(static_cast<std::byte*>(tensor->data) + offset, data, size);
    }
}

void buffer_get_tensor(ggml_backend_buffer_t, const ggml_tensor* tensor, void* data, size_t offset, size_t size) {
    const Placement place = placement_of(tensor);
    if (place.pages) {
        place.pages->read(place.offset + offset, data, size);
    } else {
        std::memcpy(data, static_cast<const std::byte*>(tensor->data) + offset, size);
    }
}

void buffer_set_tensor_2d(ggml_backend_buffer_t buffer, ggml_tensor* tensor, const void* data, size_t offset,
                          size_t size, size_t n_copies, size_t stride_tensor, size_t stride_data) {
    for (size_t i = 0; i < n_copies; ++i) {
        buffer_set_tensor(buffer, tensor, static_cast<const std::byte*>(data) + i * stride_data,
                          offset + i * stride_tensor, size);
    }
}

void buffer_get_tensor_2d(ggml_backend_buffer_t buffer, const ggml_tensor* tensor, void* data, size_t offset,
                          size_t size, size_t n_copies, size_t stride_tensor, size_t stride_data) {
    for (size_t i = 0; i < n_copies; ++i) {
        buffer_get_tensor(buffer, tensor, static_cast<std::byte*>(data) + i * stride_data, offset + i * stride_tensor,
                          size);
    }
}

bool buffer_cpy_tensor(ggml_backend_buffer_t buffer, const ggml_tensor* src, ggml_tensor* dst) {
    if (ggml_nbytes(src) != ggml_nbytes(dst) || !ggml_is_contiguous(src) || !ggml_is_contiguous(dst)) return false;
    const ggml_backend_buffer_t from = src->view_src ? src->view_src->buffer : src->buffer;
    if (ggml_backend_buffer_is_host(from)) {
        buffer_set_tensor(buffer, dst, src->data, 0, ggml_nbytes(src));
        return true;
    }
    if (!is_owner_buffer(from)) return false;
    std::array<std::byte, 16384> part;
    for (size_t done = 0; done < ggml_nbytes(src); done += part.size()) {
        const size_t count = std::min(part.size(), ggml_nbytes(src) - done);
        buffer_get_tensor(from, src, part.data(), done, count);
        buffer_set_tensor(buffer, dst, part.data(), done, count);
    }
    return true;
}

void buffer_clear(ggml_backend_buffer_t buffer, uint8_t value) {
    OwnerBuffer& context = context_of(buffer);
    const std::lock_guard lock(context.mutex);
    for (auto& [address, pages] : context.paged) {
        try {
            const Status status = pages->fill(0, value, pages->bytes());
            if (!status.is_ok()) log().error("clearing a KV cache: {}", status.to_string());
        } catch (const std::bad_alloc&) {
            log().error("clearing a KV cache: no memory left");
        }
    }
    for (const auto& [begin, bytes] : context.ordinary) std::memset(begin, value, bytes);
    if (context.all_ordinary) {
        std::byte* begin = context.base;
        for (const auto& [address, pages] : context.paged) {
            // Tensors of a compute buffer may overlap in time-shared ranges.
            if (begin < address) std::memset(begin, value, static_cast<size_t>(address - begin));
            begin = std::max(begin, context.base + (address - context.base) + round_up(pages->bytes()));
        }
        const std::byte* end = context.base + context.reserved;
        if (begin < end) std::memset(begin, value, static_cast<size_t>(end - begin));
        return;
    }
    if (context.paged.empty() && context.ordinary.empty() && context.base != nullptr) {
        // Nothing lies in the buffer yet. Fresh memory is zero already; anything else has to be written now.
        if (value == 0) return;
        if (mprotect(context.base, context.reserved, PROT_READ | PROT_WRITE) != 0) return;
        context.all_ordinary = true;
        std::memset(context.base, value, context.reserved);
    }
}

const char* type_name(ggml_backend_buffer_type_t) { return "ATLAS0"; }

ggml_backend_buffer_t type_alloc(ggml_backend_buffer_type_t type, size_t size) {
    std::unique_ptr<OwnerBuffer> context(new (std::nothrow) OwnerBuffer);
    if (!context) return nullptr;
    context->reserved = round_up(std::max<size_t>(size, 1));
    void* base = mmap(nullptr, context->reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) {
        log().error("buffer of {} bytes: the system has no address range left", size);
        return nullptr;
    }
    context->base = static_cast<std::byte*>(base);
    if (serves_tensor_parallel())
        context->all_ordinary = mprotect(base, context->reserved, PROT_READ | PROT_WRITE) == 0;
    const abi::BufferInterface iface = {buffer_free,
                                        buffer_base,
                                        buffer_init_tensor,
                                        buffer_memset_tensor,
                                        buffer_set_tensor,
                                        buffer_get_tensor,
                                        buffer_set_tensor_2d,
                                        buffer_get_tensor_2d,
                                        buffer_cpy_tensor,
                                        buffer_clear,
                                        nullptr};
    return ggml_backend_buffer_init(type, iface, context.release(), size);
}

size_t type_alignment(ggml_backend_buffer_type_t) { return kAlignment; }
bool type_is_host(ggml_backend_buffer_type_t) { return false; }

}  // namespace

ggml_backend_buffer_type_t owner_buffer_type() {
    // Complete when they are made: contexts of several threads ask for them.
    static abi::BufferTypeV3 v3{type_name, type_alloc, nullptr,      type_alignment, nullptr,
                                nullptr,   nullptr,    type_is_host, atlas_device(), nullptr};
    static abi::BufferTypeV2 v2{type_name, type_alloc,   type_alignment, nullptr,
                                nullptr,   type_is_host, atlas_device(), nullptr};
    return host_layout() == abi::Layout::kV3 ? reinterpret_cast<ggml_backend_buffer_type_t>(&v3)
                                             : reinterpret_cast<ggml_backend_buffer_type_t>(&v2);
}

bool is_owner_buffer(ggml_backend_buffer_t buffer) {
    return buffer != nullptr && reinterpret_cast<abi::Buffer*>(buffer)->type == owner_buffer_type();
}

bool is_owned(const ggml_tensor* tensor) {
    const ggml_tensor* root = root_of(tensor);
    if (!is_owner_buffer(root->buffer)) return false;
    // The host asks about weights with a buffer of size 0; its dry runs put whole caches into one. Only the name tells them apart.
    if (ggml_backend_buffer_get_size(root->buffer) == 0) return std::string_view(root->name).starts_with("cache_");
    return true;
}

Placement placement_of(const ggml_tensor* tensor) {
    const ggml_tensor* root = root_of(tensor);
    if (!is_owner_buffer(root->buffer)) return {};
    // Only buffer_init_tensor sets `extra` on tensors of our buffers.
    auto* pages = static_cast<kv::PageTable*>(root->extra);
    if (pages == nullptr) return {};
    return {pages, static_cast<size_t>(static_cast<std::byte*>(tensor->data) - static_cast<std::byte*>(root->data))};
}

}  // namespace atlas::host
