#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <exception>
#include <new>
#include <string>

#include "atlas/atlas.h"
#include "base/status.h"

/** What every function of include/atlas/ is made with: the conventions 2 to 4 of atlas.h in one place. */
namespace atlas::c_function {

/** Keeps "<function>: <message>" as this thread's last error and returns `code`. Longer texts are cut. Never throws. */
atlas_status fail(atlas_status code, const char* function, const char* message) noexcept;

/** ATLAS_OK, or the same for a failed `status`. */
atlas_status result_of(const Status& status, const char* function) noexcept;

inline atlas_status result_of(atlas_status status, const char* /*function*/) noexcept { return status; }

/** Runs `body`, which returns a Status or an atlas_status; what it throws becomes one. */
template <typename Body>
atlas_status guarded(const char* function, const Body& body) noexcept {
    try {
        return result_of(body(), function);
    } catch (const std::bad_alloc&) {
        return fail(ATLAS_OUT_OF_MEMORY, function, "out of memory");
    } catch (const std::exception& error) {
        return fail(ATLAS_INTERNAL, function, error.what());
    } catch (...) {
        return fail(ATLAS_INTERNAL, function, "unknown error");
    }
}

/** Whether the caller's struct is there and has what the first release had, `smallest` bytes. */
template <typename T>
Status check_sized(const T* given, size_t smallest, const char* name) {
    if (!given) return Status::invalid_argument(std::string(name) + " is NULL");
    if (given->size >= smallest) return Status::ok();
    return Status::invalid_argument(std::string(name) + "->size " + std::to_string(given->size) +
                                    ": set it to sizeof(*" + name + "), " + std::to_string(sizeof(T)) + " here");
}

/** What the caller's struct says, 0 for fields that it does not have. */
template <typename T>
Status take_sized(const T* given, size_t smallest, const char* name, T* out) {
    if (Status status = check_sized(given, smallest, name); !status.is_ok()) return status;
    *out = {};
    std::memcpy(static_cast<void*>(out), given, std::min(given->size, sizeof(T)));
    return Status::ok();
}

/** Fills as much of the caller's struct as it has. `given` passed check_sized. */
template <typename T>
void give_sized(T filled, T* given) {
    filled.size = std::min(given->size, sizeof(T));
    std::memcpy(static_cast<void*>(given), &filled, filled.size);
}

}  // namespace atlas::c_function
