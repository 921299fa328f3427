#pragma once

#include <string>

#include "base/status.h"

namespace atlas::host::abi {

enum class Layout { kV2 = 2, kV3 = 3 };

/** What a running ggml looks like from outside; separate from the probing so that tests can make hosts up. */
struct HostFacts {
    const char* version;           ///< ggml_version(), or nullptr
    bool has_tensor_set_2d;        ///< symbol ggml_backend_tensor_set_2d: v2 of April 2026 or later
    bool has_buft_alloc_buffer_n;  ///< symbol ggml_backend_buft_alloc_buffer_n: v3
    bool is_another_ggml =
        false;  ///< ours was loaded for Atlas alone: the host has one inside it that nobody can bind to
};

/** Probes the ggml that this process runs. */
HostFacts probe_host();

/** The layout to speak, or unsupported with one line that names what was found and what is supported. */
Status choose_layout(const HostFacts& facts, Layout* layout);

/** A sentence for a host whose self-test passed but that is newer than all that were tested, empty for those. */
std::string untested(const HostFacts& facts);

/** The line for a host that the self-test refused. */
std::string refusal(const HostFacts& facts, const Status& difference);

}  // namespace atlas::host::abi
