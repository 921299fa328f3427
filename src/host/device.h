#pragma once

#include <ggml-backend.h>

#include "host/abi/detect.h"
#include "kv/budget.h"
#include "kv/pager.h"
#include "kv/write_clock.h"

namespace atlas::host {

/** The one device that this process sees: ATLAS0 (owner mode) or ATLAS (accel mode). */
ggml_backend_dev_t atlas_device();

/** The registry entry handed to the host. */
ggml_backend_reg_t atlas_registry();

/** Layout chosen when the plug-in was loaded. */
abi::Layout host_layout();
void set_host_layout(abi::Layout layout);

/** What the KV caches of the device share: the RAM budget (ATLAS_KV_RAM or ATLAS_RAM), and the order of writes. */
kv::Budget& kv_budget();
kv::WriteClock& write_clock();
/** What moves their pages between memory and disk; nullptr without ATLAS_KV_DISK. */
kv::Pager* kv_pager();

/** A backend instance of the device, or nullptr with a log line. */
ggml_backend_t create_backend(ggml_backend_dev_t device, bool self_test);
/** As parameters of ggml_backend_dev_init: the instance is nobody's context. It has a Runtime of its own that asks for nothing, so it leaves no statistics. */
inline constexpr char kSelfTest[] = "self-test";
void backend_set_n_threads(ggml_backend_t backend, int n_threads);
void backend_set_abort_callback(ggml_backend_t backend, ggml_abort_callback callback, void* data);

}  // namespace atlas::host
