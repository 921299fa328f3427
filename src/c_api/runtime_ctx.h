#pragma once

#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "atlas/atlas-runtime.h"
#include "runtime/module_set.h"
#include "runtime/runtime.h"

/** What a handle of atlas/atlas-runtime.h is. Its parts are thread-safe. */
struct atlas_runtime_ctx {
    std::shared_ptr<atlas::runtime::Runtime> runtime;
    std::shared_ptr<atlas::runtime::ModuleSet> modules;

    /** A copy of `text` that lives as long as this. Throws std::bad_alloc. */
    const char* keep(const std::string& text) {
        const std::lock_guard lock(mutex);
        return texts.insert(text).first->c_str();
    }

private:
    std::mutex mutex;
    std::set<std::string> texts;  // guarded by mutex; few, as they are reasons
};
