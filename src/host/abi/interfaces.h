#pragma once

// The private half of ggml's backend interface, declared here from its documented layout (no header of it is installed).
// Two layouts are known: v2 (2026-04, two-dimensional tensor access added) and v3 (two batch-allocation entries in the buffer type,
// a third argument to graph_optimize, which Atlas leaves empty). Only the buffer type differs in shape between them.

#include <ggml-backend.h>

#include <cstddef>
#include <cstdint>

namespace atlas::host::abi {

struct BufferTypeV2 {
    const char* (*get_name)(ggml_backend_buffer_type_t);
    ggml_backend_buffer_t (*alloc_buffer)(ggml_backend_buffer_type_t, size_t);
    size_t (*get_alignment)(ggml_backend_buffer_type_t);
    size_t (*get_max_size)(ggml_backend_buffer_type_t);
    size_t (*get_alloc_size)(ggml_backend_buffer_type_t, const ggml_tensor*);
    bool (*is_host)(ggml_backend_buffer_type_t);
    ggml_backend_dev_t device;
    void* context;
};

struct BufferTypeV3 {
    const char* (*get_name)(ggml_backend_buffer_type_t);
    ggml_backend_buffer_t (*alloc_buffer)(ggml_backend_buffer_type_t, size_t);
    void* alloc_buffer_n;  // optional
    size_t (*get_alignment)(ggml_backend_buffer_type_t);
    size_t (*get_max_size)(ggml_backend_buffer_type_t);
    size_t (*get_alloc_size)(ggml_backend_buffer_type_t, const ggml_tensor*);
    void* get_alloc_size_n;  // optional
    bool (*is_host)(ggml_backend_buffer_type_t);
    ggml_backend_dev_t device;
    void* context;
};

struct BufferInterface {
    void (*free_buffer)(ggml_backend_buffer_t);
    void* (*get_base)(ggml_backend_buffer_t);
    ggml_status (*init_tensor)(ggml_backend_buffer_t, ggml_tensor*);
    void (*memset_tensor)(ggml_backend_buffer_t, ggml_tensor*, uint8_t value, size_t offset, size_t size);
    void (*set_tensor)(ggml_backend_buffer_t, ggml_tensor*, const void* data, size_t offset, size_t size);
    void (*get_tensor)(ggml_backend_buffer_t, const ggml_tensor*, void* data, size_t offset, size_t size);
    void (*set_tensor_2d)(ggml_backend_buffer_t, ggml_tensor*, const void* data, size_t offset, size_t size,
                          size_t n_copies, size_t stride_tensor, size_t stride_data);
    void (*get_tensor_2d)(ggml_backend_buffer_t, const ggml_tensor*, void* data, size_t offset, size_t size,
                          size_t n_copies, size_t stride_tensor, size_t stride_data);
    bool (*cpy_tensor)(ggml_backend_buffer_t, const ggml_tensor* src, ggml_tensor* dst);
    void (*clear)(ggml_backend_buffer_t, uint8_t value);
    void (*reset)(ggml_backend_buffer_t);
};

struct Buffer {
    BufferInterface iface;
    ggml_backend_buffer_type_t type;
    void* context;
    size_t size;
    ggml_backend_buffer_usage usage;
};

struct BackendInterface {
    const char* (*get_name)(ggml_backend_t);
    void (*free)(ggml_backend_t);
    void* set_tensor_async;  // optional, as are all that are void* here
    void* get_tensor_async;
    void* set_tensor_2d_async;
    void* get_tensor_2d_async;
    void* cpy_tensor_async;
    void (*synchronize)(ggml_backend_t);
    void* graph_plan_create;
    void* graph_plan_free;
    void* graph_plan_update;
    void* graph_plan_compute;
    ggml_status (*graph_compute)(ggml_backend_t, ggml_cgraph*);
    void* event_record;
    void* event_wait;
    void* graph_optimize;
};

struct Backend {
    ggml_guid_t guid;
    BackendInterface iface;
    ggml_backend_dev_t device;
    void* context;
};

struct DeviceInterface {
    const char* (*get_name)(ggml_backend_dev_t);
    const char* (*get_description)(ggml_backend_dev_t);
    void (*get_memory)(ggml_backend_dev_t, size_t* free, size_t* total);
    enum ggml_backend_dev_type (*get_type)(ggml_backend_dev_t);
    void (*get_props)(ggml_backend_dev_t, ggml_backend_dev_props*);
    ggml_backend_t (*init_backend)(ggml_backend_dev_t, const char* params);
    ggml_backend_buffer_type_t (*get_buffer_type)(ggml_backend_dev_t);
    void* get_host_buffer_type;  // optional
    void* buffer_from_host_ptr;  // optional
    bool (*supports_op)(ggml_backend_dev_t, const ggml_tensor* op);
    bool (*supports_buft)(ggml_backend_dev_t, ggml_backend_buffer_type_t);
    void* offload_op;  // optional, as are the events
    void* event_new;
    void* event_free;
    void* event_synchronize;
};

struct Device {
    DeviceInterface iface;
    ggml_backend_reg_t registry;
    void* context;
};

struct RegistryInterface {
    const char* (*get_name)(ggml_backend_reg_t);
    size_t (*get_device_count)(ggml_backend_reg_t);
    ggml_backend_dev_t (*get_device)(ggml_backend_reg_t, size_t index);
    void* (*get_proc_address)(ggml_backend_reg_t, const char* name);
};

struct Registry {
    int api_version;
    RegistryInterface iface;
    void* context;
};

}  // namespace atlas::host::abi

// Exported by ggml-base; makes the buffer object that ggml_backend_buffer_free deletes.
extern "C" ggml_backend_buffer_t ggml_backend_buffer_init(ggml_backend_buffer_type_t type,
                                                          atlas::host::abi::BufferInterface iface, void* context,
                                                          size_t size);
