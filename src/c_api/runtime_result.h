#pragma once

#include <exception>
#include <new>

#include "atlas/atlas-runtime.h"
#include "base/c_function.h"

/** The error convention of atlas/atlas-runtime.h, beside base/c_function.h's of the other headers; both leave their text in the same place. */
namespace atlas::c_api {

/** What a function returns for statuses that mean something else in each. */
struct Results {
    atlas_runtime_result unsupported = ATLAS_RUNTIME_ERROR_INIT_FAILED;
    atlas_runtime_result out_of_memory = ATLAS_RUNTIME_ERROR_MEMORY_ALLOCATION;
};

inline atlas_runtime_result fail_with(atlas_runtime_result result, const char* function, const char* message) noexcept {
    c_function::fail(ATLAS_INTERNAL, function, message);
    return result;
}

inline atlas_runtime_result result_of(const Status& status, const char* function, const Results& results) noexcept {
    if (status.is_ok()) return ATLAS_RUNTIME_SUCCESS;
    atlas_runtime_result result = ATLAS_RUNTIME_ERROR_INIT_FAILED;
    if (status.code() == StatusCode::kInvalidArgument) result = ATLAS_RUNTIME_ERROR_INVALID_PARAMS;
    if (status.code() == StatusCode::kUnsupported) result = results.unsupported;
    if (status.code() == StatusCode::kOutOfMemory) result = results.out_of_memory;
    return fail_with(result, function, status.message().c_str());
}

inline atlas_runtime_result result_of(atlas_runtime_result result, const char* /*function*/,
                                      const Results& /*results*/) noexcept {
    return result;
}

/** Runs `body`, which returns a Status or a result; what it throws becomes one. */
template <typename Body>
atlas_runtime_result runtime_guarded(const char* function, const Results& results, const Body& body) noexcept {
    try {
        return result_of(body(), function, results);
    } catch (const std::bad_alloc&) {
        return fail_with(ATLAS_RUNTIME_ERROR_MEMORY_ALLOCATION, function, "out of memory");
    } catch (const std::exception& error) {
        return fail_with(ATLAS_RUNTIME_ERROR_INIT_FAILED, function, error.what());
    } catch (...) {
        return fail_with(ATLAS_RUNTIME_ERROR_INIT_FAILED, function, "unknown error");
    }
}

}  // namespace atlas::c_api
