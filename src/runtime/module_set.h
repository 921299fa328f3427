#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "runtime/activity.h"
#include "runtime/model_profile.h"
#include "runtime/module.h"

namespace atlas::runtime {

class Runtime;

/** What a runtime of the C API is made with; docs/api.md. */
struct ModuleSetOptions {
    double level = 1.0;   ///< of optimization, 0 to 2
    uint32_t most = 16;   ///< modules that may be loaded at once
    bool enabled = true;  ///< false: none is loaded at first
    bool auto_unload = false;
    uint64_t pool_bytes = 0;  ///< 0: without a limit
    double sparsity = 0.1;    ///< share of inputs that activation sparsity leaves out
};

/** What a session is to do. */
struct Orders {
    uint64_t version = 0;
    bool ended = false;         ///< nothing more: the session is its own master again
    bool own_attention = true;  ///< else the host's operation
    bool own_weights = true;    ///< the same
    bool rounded = true;        ///< weights as ATLAS_WEIGHT_FORMAT has them, else as they are in their file
    bool streamed = true;       ///< weights within ATLAS_WEIGHTS_RAM, else where they are mapped
    bool sparse = false;
    std::vector<std::pair<std::string, std::string>> options;  ///< names and values, as Session::set_option takes them
};

/**
 * Which modules are loaded for the sessions of one runtime of the C API, and what these did. A session looks at version() before each graph, and takes orders() when it
 * has changed: nobody waits for anybody. Thread-safe.
 */
class ModuleSet {
public:
    /** `runtime` outlives it. Loads what the level asks for and this process can have. Throws std::bad_alloc. */
    ModuleSet(Runtime& runtime, ModelProfile profile, const ModuleSetOptions& options);

    /** Why a module cannot be loaded in this process, "" if it can. */
    std::string absence_of(Module module) const;
    /** It then stays loaded until it is unloaded by name. Errors: unsupported, it cannot be in this process; invalid argument, without a module that it needs; out of memory, too many are loaded. */
    Status load(Module module);
    /** With those that need it. */
    void unload(Module module);
    /** No session follows from here on. */
    void end();

    bool is_loaded(Module module) const;
    uint32_t loaded() const;
    /** Why a module is not there although it was asked for; "" otherwise. */
    std::string reason_of(Module module) const;

    uint64_t version() const { return version_.load(std::memory_order_acquire); }
    Orders orders() const;

    /** What a session did in a graph. May unload a module that is slower than the host's operation, if that was asked for. */
    void add(const Work& work);
    Activity& activity() { return activity_; }
    const Activity& activity() const { return activity_; }
    const ModelProfile& profile() const { return profile_; }
    uint64_t pool_bytes() const { return pool_bytes_.load(std::memory_order_relaxed); }
    void set_pool_bytes(uint64_t bytes);

private:
    void changed() { version_.fetch_add(1, std::memory_order_release); }
    void unload_locked(Module module);
    uint32_t loaded_locked() const;
    Status load_locked(Module module);
    void look_at(const Work& work);

    Runtime& runtime_;
    const ModelProfile profile_;
    const ModuleSetOptions options_;
    Activity activity_;
    std::atomic<uint64_t> version_{1};
    std::atomic<uint64_t> pool_bytes_;
    mutable std::mutex mutex_;
    std::array<bool, kModules> loaded_{};          // guarded by mutex_
    std::array<bool, kModules> by_name_{};         // the same
    std::array<std::string, kModules> reasons_{};  // the same
    bool ended_ = false;                           // the same
};

}  // namespace atlas::runtime
