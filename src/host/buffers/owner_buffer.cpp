#include "host/buffers/owner_buffer.h"

#include <ggml.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <string_view>

#include "base/log.h"
#include "host/abi/interfaces.h"
#include "host/device.h"
#include "host/graph/op_kind.h"
#include "host/graph/whose.h"
#include "runtime/plugin_runtime.h"

namespace atlas::host {
namespace {

// Of tensors: their own memory pages, so that one can be made accessible without its neighbour.
constexpr size_t kAlignment = 4096;

const abi::Buffer& abi_of(ggml_backend_buffer_t buffer) { return *reinterpret_cast<const abi::Buffer*>(buffer); }

OwnerMemory& memory_of(ggml_backend_buffer_t buffer) { return *static_cast<OwnerMemory*>(abi_of(buffer).context); }

/** Whether everything in the buffer is to be paged: a test switch, which leaves the host's scratch memory alone. */
bool pages_all(ggml_backend_buffer_t buffer) {
    return runtime::plugin_runtime()->options().page_all && abi_of(buffer).usage != GGML_BACKEND_BUFFER_USAGE_COMPUTE;
}

void buffer_free(ggml_backend_buffer_t buffer) { delete &memory_of(buffer); }

void* buffer_base(ggml_backend_buffer_t buffer) { return memory_of(buffer).base(); }

ggml_status buffer_init_tensor(ggml_backend_buffer_t buffer, ggml_tensor* tensor) {
    if (tensor->view_src != nullptr || ggml_nbytes(tensor) == 0) return GGML_STATUS_SUCCESS;
    try {
        const Status status = memory_of(buffer).add(tensor, pages_all(buffer));
        if (status.is_ok()) return GGML_STATUS_SUCCESS;
        log().error("{}", status.message());
        return status.code() == StatusCode::kOutOfMemory ? GGML_STATUS_ALLOC_FAILED : GGML_STATUS_FAILED;
    } catch (const std::bad_alloc&) {
        log().error("'{}' of {} bytes: no memory for its page table", tensor->name, ggml_nbytes(tensor));
        return GGML_STATUS_ALLOC_FAILED;
    }
}

/**
 * Does `work(place)` on bytes of a tensor. The host's functions for these return nothing: a failure is told in the log, and once per cache if
 * these were to be written: then its cells are damaged, which fails the next graph that looks at them. Whether it was done.
 */
enum class Effect { kReads, kWrites };
template <typename Work>
bool access(Effect effect, const char* operation, ggml_backend_buffer_t buffer, const ggml_tensor* tensor,
            size_t offset, size_t size, Work work) {
    Placement place;
    bool known = false;  // that something went wrong with this cache
    const auto failed = [&](const Status& status) {
        // Does nothing more where the work did it.
        if (place.pages && effect == Effect::kWrites) place.pages->mark_damaged(place.offset + offset, size, status);
        if (!known)
            log().error("{} of '{}', {} bytes at {}: {}", operation, tensor->name, size, offset, status.to_string());
    };
    try {
        OwnerMemory& memory = memory_of(buffer);
        Status status = memory.find(tensor, pages_all(buffer), &place);
        if (status.is_ok()) {
            const bool inside =
                place.pages ? size <= place.pages->bytes() && place.offset + offset <= place.pages->bytes() - size
                            : memory.contains(static_cast<std::byte*>(tensor->data) + offset, size);
            if (!inside) {
                place = {};  // whose bytes they are nobody knows
                status = Status::invalid_argument("outside of its memory");
            }
        }
        known = effect == Effect::kWrites && place.pages && place.pages->is_damaged();
        if (status.is_ok()) status = work(place);
        if (status.is_ok()) return true;
        failed(status);
    } catch (const std::bad_alloc&) {
        failed(Status(StatusCode::kOutOfMemory, {}));
    }
    return false;
}

std::byte* ordinary(const ggml_tensor* tensor, size_t offset) { return static_cast<std::byte*>(tensor->data) + offset; }

void buffer_memset_tensor(ggml_backend_buffer_t buffer, ggml_tensor* tensor, uint8_t value, size_t offset,
                          size_t size) {
    access(Effect::kWrites, "memset", buffer, tensor, offset, size, [&](const Placement& place) {
        if (place.pages) return place.pages->fill(place.offset + offset, value, size);
        std::memset(ordinary(tensor, offset), value, size);
        return Status::ok();
    });
}

void buffer_set_tensor(ggml_backend_buffer_t buffer, ggml_tensor* tensor, const void* data, size_t offset,
                       size_t size) {
    access(Effect::kWrites, "write", buffer, tensor, offset, size, [&](const Placement& place) {
        if (place.pages) return place.pages->write(place.offset + offset, data, size);
        std::memcpy(ordinary(tensor, offset), data, size);
        return Status::ok();
    });
}

void buffer_get_tensor(ggml_backend_buffer_t buffer, const ggml_tensor* tensor, void* data, size_t offset,
                       size_t size) {
    const bool done = access(Effect::kReads, "read", buffer, tensor, offset, size, [&](const Placement& place) {
        if (place.pages) {
            const kv::PageTable& table = *place.pages;
            const size_t begin = place.offset + offset, row = table.row_bytes();
            if (Status status = table.read(begin, data, size); !status.is_ok()) return status;
            if (table.is_damaged(static_cast<int64_t>(begin / row),
                                 static_cast<int64_t>((begin + size + row - 1) / row)))
                log().error("read of '{}', {} bytes at {}: not what was to be there: {}", tensor->name, size, offset,
                            table.damage().to_string());
        } else {
            std::memcpy(data, ordinary(tensor, offset), size);
        }
        return Status::ok();
    });
    // The host shall not go on with what was in its memory before.
    if (!done) std::memset(data, 0, size);
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
    const size_t bytes = ggml_nbytes(src);
    if (bytes != ggml_nbytes(dst) || !ggml_is_contiguous(src) || !ggml_is_contiguous(dst)) return false;
    const ggml_backend_buffer_t from = src->view_src ? src->view_src->buffer : src->buffer;
    if (ggml_backend_buffer_is_host(from)) {
        buffer_set_tensor(buffer, dst, src->data, 0, bytes);
        return true;
    }
    if (!is_owner_buffer(from)) return false;
    const Placement source = placement_of(src);
    if (source.pages && placement_of(dst).pages && bytes <= source.pages->bytes() - source.offset) {
        // What a host does to copy a sequence into another stream: all cells of a stream, of which most may be empty.
        access(Effect::kWrites, "copy", buffer, dst, 0, bytes, [&](const Placement& place) {
            return place.pages->copy(place.offset, *source.pages, source.offset, bytes);
        });
        return true;
    }
    std::array<std::byte, 16384> part;
    for (size_t done = 0; done < bytes; done += part.size()) {
        const size_t count = std::min(part.size(), bytes - done);
        buffer_get_tensor(from, src, part.data(), done, count);
        buffer_set_tensor(buffer, dst, part.data(), done, count);
    }
    return true;
}

void buffer_clear(ggml_backend_buffer_t buffer, uint8_t value) {
    try {
        const Status status = memory_of(buffer).fill(value);
        if (!status.is_ok()) log().error("clearing a buffer of KV caches: {}", status.to_string());
    } catch (const std::bad_alloc&) {
        log().error("clearing a buffer of KV caches: no memory left");
    }
}

const char* type_name(ggml_backend_buffer_type_t) { return "ATLAS0"; }

ggml_backend_buffer_t type_alloc(ggml_backend_buffer_type_t type, size_t size) {
    std::unique_ptr<OwnerMemory> memory(new (std::nothrow) OwnerMemory(size, kv_budget(), kv_pager(), write_clock()));
    if (!memory || !memory->base()) {
        log().error("buffer of {} bytes: the system has no address range left", size);
        return nullptr;
    }
    if (serves_tensor_parallel() && !memory->open_all()) {
        log().error("buffer of {} bytes: the system has no memory left", size);
        return nullptr;
    }
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
    return ggml_backend_buffer_init(type, iface, memory.release(), size);
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
    return buffer != nullptr && abi_of(buffer).type == owner_buffer_type();
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
    const ggml_backend_buffer_t buffer = root->buffer ? root->buffer : tensor->buffer;
    // A buffer of size 0 is one of the host's own making, without memory of ours.
    if (!is_owner_buffer(buffer) || abi_of(buffer).context == nullptr) return {};
    Placement place;
    if (const Status status = memory_of(buffer).find(tensor, pages_all(buffer), &place); !status.is_ok())
        log().error("{}", status.message());
    return place;
}

}  // namespace atlas::host
