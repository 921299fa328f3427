// Preloaded into a program (LD_PRELOAD): makes allocations of one library fail, and only of that one. An allocation belongs to the library if
// that, or the C++ runtime and log library on its behalf, asked; what the host or OpenMP's runtime asks for while the library is on the
// stack does not count.
//   FAIL_ALLOC_LIBRARY  part of the library's path
//   FAIL_ALLOC_FIRST    number of the first allocation that fails, from 1; 0: none does
//   FAIL_ALLOC_COUNT    how many fail from there on (default 1)
//   FAIL_ALLOC_ARM      counting starts when this file exists and starts again when it is made anew
//   FAIL_ALLOC_REPORT   file for the number of allocations, written when the process ends
#include <errno.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <unwind.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <new>

extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
}

namespace {

enum class Owner { kUnknown, kLibrary, kAgent, kOther };

struct Range {
    uintptr_t begin, end;
    Owner owner;
};

constexpr int kMaxRanges = 512;
Range g_ranges[kMaxRanges];
std::atomic<int> g_n_ranges{0};
std::atomic<bool> g_busy{false};
std::atomic<long> g_count{0};
thread_local bool t_inside __attribute__((tls_model("initial-exec"))) = false;

long number(const char* name, long otherwise) {
    const char* text = getenv(name);
    return text ? atol(text) : otherwise;
}

Owner owner_of_path(const char* path) {
    const char* library = getenv("FAIL_ALLOC_LIBRARY");
    if (library && *library && strstr(path, library)) return Owner::kLibrary;
    for (const char* agent : {"libstdc++", "libc.so", "libspdlog", "libfmt", "fail_alloc"}) {
        if (strstr(path, agent)) return Owner::kAgent;
    }
    return Owner::kOther;
}

int add_range(dl_phdr_info* info, size_t, void*) {
    uintptr_t begin = UINTPTR_MAX;
    uintptr_t end = 0;
    for (int i = 0; i < info->dlpi_phnum; ++i) {
        if (info->dlpi_phdr[i].p_type != PT_LOAD) continue;
        const uintptr_t at = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
        if (at < begin) begin = at;
        if (at + info->dlpi_phdr[i].p_memsz > end) end = at + info->dlpi_phdr[i].p_memsz;
    }
    const int n = g_n_ranges;
    for (int i = 0; i < n; ++i) {
        if (g_ranges[i].begin == begin) return 0;
    }
    if (n == kMaxRanges) return 1;
    g_ranges[n] = {begin, end, owner_of_path(info->dlpi_name)};
    g_n_ranges = n + 1;
    return 0;
}

Owner owner_of(uintptr_t address) {
    for (int attempt = 0; attempt < 2; ++attempt) {
        for (int i = 0; i < g_n_ranges; ++i) {
            if (address >= g_ranges[i].begin && address < g_ranges[i].end) return g_ranges[i].owner;
        }
        if (g_busy.exchange(true)) return Owner::kOther;
        dl_iterate_phdr(add_range, nullptr);
        g_busy = false;
    }
    return Owner::kOther;
}

_Unwind_Reason_Code first_principal(_Unwind_Context* context, void* result) {
    const Owner owner = owner_of(_Unwind_GetIP(context) - 1);
    if (owner == Owner::kAgent) return _URC_NO_REASON;
    *static_cast<Owner*>(result) = owner;
    return _URC_END_OF_STACK;
}

bool armed() {
    static const char* const file = getenv("FAIL_ALLOC_ARM");
    if (!file) return true;
    static std::atomic<bool> was{false};
    const bool is = access(file, F_OK) == 0;
    if (is && !was.exchange(true)) g_count = 0;
    if (!is) was = false;
    return is;
}

/** Whether the allocation whose caller is at `address` has to fail. */
bool fails(const void* address) {
    if (t_inside) return false;
    t_inside = true;
    const int error = errno;
    Owner owner = owner_of(reinterpret_cast<uintptr_t>(address) - 1);
    if (owner == Owner::kAgent) _Unwind_Backtrace(first_principal, &owner);
    bool fail = false;
    if (owner == Owner::kLibrary && armed()) {
        static const long first = number("FAIL_ALLOC_FIRST", 0);
        static const long count = number("FAIL_ALLOC_COUNT", 1);
        const long n = ++g_count;
        fail = first > 0 && n >= first && n - first < count;
    }
    errno = error;
    t_inside = false;
    return fail;
}

__attribute__((destructor)) void report() {
    const char* path = getenv("FAIL_ALLOC_REPORT");
    if (!path) return;
    t_inside = true;
    if (std::FILE* file = std::fopen(path, "w")) {
        std::fprintf(file, "%ld\n", g_count.load());
        std::fclose(file);
    }
}

void* unless_failed(void* address, size_t size, size_t alignment) {
    if (fails(address)) return nullptr;
    return alignment ? __libc_memalign(alignment, size) : __libc_malloc(size ? size : 1);
}

void* or_throw(void* memory) {
    if (!memory) throw std::bad_alloc();
    return memory;
}

}  // namespace

#define CALLER __builtin_return_address(0)

extern "C" {

void* malloc(size_t size) {
    if (fails(CALLER)) return errno = ENOMEM, nullptr;
    return __libc_malloc(size);
}

void* calloc(size_t n, size_t size) {
    if (fails(CALLER)) return errno = ENOMEM, nullptr;
    return __libc_calloc(n, size);
}

void* realloc(void* memory, size_t size) {
    if (fails(CALLER)) return errno = ENOMEM, nullptr;
    return __libc_realloc(memory, size);
}

void* aligned_alloc(size_t alignment, size_t size) {
    if (fails(CALLER)) return errno = ENOMEM, nullptr;
    return __libc_memalign(alignment, size);
}

int posix_memalign(void** out, size_t alignment, size_t size) {
    if (fails(CALLER)) return ENOMEM;
    *out = __libc_memalign(alignment, size);
    return *out ? 0 : ENOMEM;
}

void* mmap(void* address, size_t size, int protection, int flags, int file, off_t offset) {
    if (fails(CALLER)) return errno = ENOMEM, MAP_FAILED;
    return reinterpret_cast<void*>(syscall(SYS_mmap, address, size, protection, flags, file, offset));
}

int mprotect(void* address, size_t size, int protection) {
    if (fails(CALLER)) return errno = ENOMEM, -1;
    return static_cast<int>(syscall(SYS_mprotect, address, size, protection));
}
}

void* operator new(size_t size) { return or_throw(unless_failed(CALLER, size, 0)); }
void* operator new[](size_t size) { return or_throw(unless_failed(CALLER, size, 0)); }
void* operator new(size_t size, std::align_val_t alignment) {
    return or_throw(unless_failed(CALLER, size, static_cast<size_t>(alignment)));
}
void* operator new[](size_t size, std::align_val_t alignment) {
    return or_throw(unless_failed(CALLER, size, static_cast<size_t>(alignment)));
}
void* operator new(size_t size, const std::nothrow_t&) noexcept { return unless_failed(CALLER, size, 0); }
void* operator new[](size_t size, const std::nothrow_t&) noexcept { return unless_failed(CALLER, size, 0); }
void operator delete(void* memory) noexcept { free(memory); }
void operator delete[](void* memory) noexcept { free(memory); }
void operator delete(void* memory, size_t) noexcept { free(memory); }
void operator delete[](void* memory, size_t) noexcept { free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { free(memory); }
void operator delete[](void* memory, size_t, std::align_val_t) noexcept { free(memory); }
