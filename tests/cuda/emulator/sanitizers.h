#pragma once

// The hooks of AddressSanitizer and ThreadSanitizer for code that switches stacks by itself. This folder's .cpp files are compiled with
// SIMT_RUNTIME_ASAN or SIMT_RUNTIME_TSAN where the kernels are instrumented; for TSan they are themselves not, so that only kernels' accesses count.

#include <cstddef>
#include <cstdlib>

#ifdef SIMT_RUNTIME_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef SIMT_RUNTIME_TSAN
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
void __tsan_read_range(void* address, unsigned long bytes);
void __tsan_write_range(void* address, unsigned long bytes);
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

namespace atlas::simt {

#ifdef SIMT_RUNTIME_ASAN
inline constexpr size_t kRedZone = 16;  ///< bytes behind each piece of shared memory that nobody may touch
// Not the macros of their names, which do nothing in a file that is not instrumented.
inline void poison(void* from, size_t bytes) { __asan_poison_memory_region(from, bytes); }
inline void unpoison(void* from, size_t bytes) { __asan_unpoison_memory_region(from, bytes); }
#else
inline constexpr size_t kRedZone = 0;
inline void poison(void*, size_t) {}
inline void unpoison(void*, size_t) {}
#endif

#ifdef SIMT_RUNTIME_TSAN
/** What happened before a release of an address happened before a later acquire of it. */
inline void release(void* address) { __tsan_release(address); }
inline void acquire(void* address) { __tsan_acquire(address); }
inline void saw_read(const void* from, size_t bytes) { __tsan_read_range(const_cast<void*>(from), bytes); }
inline void saw_write(void* to, size_t bytes) { __tsan_write_range(to, bytes); }
/**
 * Frees `old` and returns `bytes` of memory (none: nullptr), aligned to 256, that nobody has touched as far as the sanitizer knows: what is ignored here is that
 * the freed block's last users and the new one's are ordered by nothing, as shared memory of two blocks is.
 */
inline void* new_memory(void* old, size_t bytes) {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
    std::free(old);
    void* memory = bytes ? std::aligned_alloc(256, bytes) : nullptr;
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
    return memory;
}
#else
inline void release(void*) {}
inline void acquire(void*) {}
inline void saw_read(const void*, size_t) {}
inline void saw_write(void*, size_t) {}
inline void* new_memory(void* old, size_t bytes) {
    std::free(old);
    return bytes ? std::aligned_alloc(256, bytes) : nullptr;
}
#endif

}  // namespace atlas::simt
