#include "emulator/fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "emulator/sanitizers.h"
#include "emulator/thread.h"

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace atlas::simt {
namespace {

// Kernels keep a few KiB of registers on it, sanitizers more.
constexpr size_t kStackBytes = 128 * 1024;
constexpr size_t kGuardBytes = 4096;

}  // namespace

#if defined(__x86_64__)

// swapcontext() asks the kernel for the signal mask: ten times slower, and a kernel's warp collectives are switches.
extern "C" void simt_switch(void** save, void* load);
asm(R"(
.text
.globl simt_switch
.type simt_switch, @function
simt_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size simt_switch, .-simt_switch
)");

namespace {

void prepare(Context* context, void (*entry)()) {
    // As if entry had been called: the switch pops six registers and returns into it, 8 bytes off a multiple of 16.
    auto** top = reinterpret_cast<void**>(context->stack + kStackBytes - 64);
    top[0] = reinterpret_cast<void*>(entry);
    top[1] = nullptr;
    context->stack_pointer = top - 6;
}
void change(Context* from, Context* to) { simt_switch(&from->stack_pointer, to->stack_pointer); }

}  // namespace

#else

namespace {

ucontext_t* of(Context* context) {
    if (!context->stack_pointer) context->stack_pointer = new ucontext_t;
    return static_cast<ucontext_t*>(context->stack_pointer);
}
void prepare(Context* context, void (*entry)()) {
    ucontext_t* u = of(context);
    getcontext(u);
    u->uc_stack.ss_sp = context->stack;
    u->uc_stack.ss_size = kStackBytes;
    u->uc_link = nullptr;
    makecontext(u, entry, 0);
}
void change(Context* from, Context* to) { swapcontext(of(from), of(to)); }

}  // namespace

#endif

void make_context(Context* context, void (*entry)()) {
    void* memory = mmap(nullptr, kStackBytes + kGuardBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        std::fprintf(stderr, "simt: no memory for the stack of a thread\n");
        std::_Exit(kFaultStatus);
    }
    mprotect(memory, kGuardBytes, PROT_NONE);
    context->stack = static_cast<unsigned char*>(memory) + kGuardBytes;
    context->bottom = context->stack;
    context->size = kStackBytes;
    prepare(context, entry);
#ifdef SIMT_RUNTIME_TSAN
    context->tsan = __tsan_create_fiber(0);
#endif
}

void adopt_context(Context* context) {
    (void)context;
#ifdef SIMT_RUNTIME_TSAN
    context->tsan = __tsan_get_current_fiber();
#endif
}

void arrived(Context* from) {
    (void)from;
#ifdef SIMT_RUNTIME_ASAN
    // Of the program's own stack nothing is known but what the first switch away from it tells.
    const void* bottom = nullptr;
    size_t size = 0;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
    if (!from->stack) {
        from->bottom = bottom;
        from->size = size;
    }
#endif
}

void switch_to(Context* from, Context* to) {
#ifdef SIMT_RUNTIME_TSAN
    __tsan_switch_to_fiber(to->tsan, 1);  // 1: a switch orders nothing by itself
#endif
#ifdef SIMT_RUNTIME_ASAN
    __sanitizer_start_switch_fiber(&from->fake_stack, to->bottom, to->size);
#endif
    change(from, to);
#ifdef SIMT_RUNTIME_ASAN
    __sanitizer_finish_switch_fiber(from->fake_stack, nullptr, nullptr);
#endif
}

}  // namespace atlas::simt
