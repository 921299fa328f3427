#pragma once

#include <cstddef>

namespace atlas::simt {

/** A stack and where it stands. Lives until the program ends, since a sanitizer may still name it. */
struct Context {
    void* stack_pointer = nullptr;
    unsigned char* stack = nullptr;  ///< nullptr: the program's own stack
    void* tsan = nullptr;
    void* fake_stack = nullptr;    ///< AddressSanitizer's
    const void* bottom = nullptr;  ///< of the stack, as AddressSanitizer knows it
    size_t size = 0;
};

/** A new stack, on which the first switch_to() calls entry(), which must not return. */
void make_context(Context* context, void (*entry)());
/** To be called first in entry(): `from` is who switched here. */
void arrived(Context* from);
/** The context of whoever calls, to be switched back to. */
void adopt_context(Context* context);
/** Saves `from` and goes on with `to`; returns when somebody switches to `from`. */
void switch_to(Context* from, Context* to);

}  // namespace atlas::simt
