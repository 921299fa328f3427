#include <ggml-backend.h>

#include <cstdio>
#include <new>
#include <string>
#include <vector>

#include "base/log.h"
#include "base/options.h"
#include "host/abi/detect.h"
#include "host/abi/self_test.h"
#include "host/device.h"
#include "kernels/description.h"
#include "kernels/kernel_table.h"
#include "runtime/plugin_runtime.h"

/** Entry point that ggml's loader calls. nullptr, with one line in the log, when Atlas cannot work here; the host then goes on alone. */
extern "C" __attribute__((visibility("default"))) ggml_backend_reg_t ggml_backend_init() {
    using namespace atlas;
    try {
        host::abi::Layout layout{};
        std::vector<std::string> unknown;
        Options options;
        Status status = read_environment(&options, &unknown);
        set_log_level(options.log_level);
        // A typo would else be silent.
        for (const std::string& sentence : unknown) log().warn("{}", sentence);
        const host::abi::HostFacts facts = host::abi::probe_host();
        if (status.is_ok()) status = host::abi::choose_layout(facts, &layout);
        if (status.is_ok()) status = kernels::select_kernel_variant(options.kernel.c_str());
        if (!status.is_ok()) {
            log().error("not loaded: {}", status.to_string());
            return nullptr;
        }
        host::set_host_layout(layout);
        if (status = runtime::start_plugin_runtime(options); !status.is_ok()) {
            log().error("not loaded: {}", status.to_string());
            return nullptr;
        }
        // A copy of this file under another name: the host would split models over the two devices.
        if (ggml_backend_reg_t other = ggml_backend_reg_by_name("ATLAS"); other && other != host::atlas_registry()) {
            log().error("not loaded: another copy of this library is loaded already");
            return nullptr;
        }
        status = host::abi::self_test(host::atlas_device(), host::atlas_registry());
        if (!status.is_ok()) {
            log().error("not loaded: {}", host::abi::refusal(facts, status));
            return nullptr;
        }
        if (const std::string sentence = host::abi::untested(facts); !sentence.empty()) log().warn("{}", sentence);
        log().info("ggml {}, backend API {}, kernels {}", facts.version, static_cast<int>(layout),
                   kernels::kernel_description());
        return host::atlas_registry();
    } catch (const std::bad_alloc&) {
        std::fputs("atlas: not loaded: no memory left\n", stderr);  // perhaps there is no log either
        return nullptr;
    }
}

extern "C" __attribute__((visibility("default"))) int ggml_backend_score() { return 1; }
