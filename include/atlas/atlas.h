/*
 * What all of Atlas's C headers have in common: conventions, status, last error. C11, and C++ from 11 on.
 *
 * 1. The functions live in libggml-atlas.so. Link it (pkg-config ggml-atlas, or CMake's ggml-atlas::ggml-atlas), or ask the loaded backend for each
 *    by its name: ggml_backend_reg_get_proc_address(ggml_backend_reg_by_name("ATLAS"), "atlas_last_error"). Linking does not load the backend.
 * 2. Failure: every function that can fail returns an enum atlas_status. Below 0 nothing was changed, out-arguments are as they were, and
 *    atlas_last_error() names the function, the value and what is allowed. NULL where something is needed is a failure, not a crash.
 *    (Functions that cannot fail return what they are asked for, or nothing. One question, llama_model_has_atlas, returns bool.)
 * 3. No function ends the process, lets a C++ exception out, or prints; what happens later, while graphs run, is in Atlas's log (ATLAS_LOG_LEVEL).
 * 4. Structs that cross the boundary begin with `size`: set it to sizeof of the struct before every call. A larger struct than the library
 *    knows is accepted, and what the library does not know is left alone; one that is smaller than the first release's is refused. Of a struct
 *    that is filled, `size` comes back as the bytes that were filled. Fields are only ever added at the end. Set the rest to 0, as
 *    `struct atlas_x x = {.size = sizeof x};` does.
 * 5. Ownership: what *_create or *_begin hands out is the caller's until *_free, which accepts NULL. Everything else that is handed out belongs to
 *    the library and is valid as said at its function. Texts given to a function are copied where they are needed for longer than the call.
 * 6. Threads: said at the top of each header. Functions in this one may be called from any thread at any time.
 * 7. Texts are UTF-8 and end with 0. Sizes are bytes, ratios 0 to 1, where nothing else is said.
 */
#ifndef ATLAS_ATLAS_H
#define ATLAS_ATLAS_H

#include <stddef.h>
#include <stdint.h>

#ifndef ATLAS_API
#if defined(_WIN32)
#define ATLAS_API
#else
#define ATLAS_API __attribute__((visibility("default")))
#endif
#endif

/* Every int is a value of such an enum in C++ too, so that one that means nothing can be looked at and refused. */
#ifdef __cplusplus
#define ATLAS_INT : int
extern "C" {
#else
#define ATLAS_INT
#endif

enum atlas_status ATLAS_INT {
    ATLAS_OK = 0,
    ATLAS_INVALID_ARGUMENT = -1, /* NULL, NaN, out of range, a struct that is too small */
    ATLAS_NOT_ACTIVE = -2,       /* this context does not run on Atlas */
    ATLAS_NO_LLAMA = -3,         /* libllama's functions were not found in this process, or in several libraries */
    ATLAS_UNSUPPORTED = -4,      /* this context, its settings or its state cannot do that */
    ATLAS_OUT_OF_MEMORY = -5,
    ATLAS_INTERNAL = -6, /* a bug */
    ATLAS_IO = -7,       /* a file cannot be read or written; the system's reason is in the message */
    ATLAS_CORRUPT = -8   /* a file or a saved state is not what it should be */
};

/* Features of a query or key that a memory learns from; docs/design/memory.md has the equations. */
enum atlas_feature_type ATLAS_INT {
    ATLAS_FEATURE_IDENTITY = 0,
    ATLAS_FEATURE_POLYNOMIAL = 1,  /* all monomials up to a degree */
    ATLAS_FEATURE_EXPONENTIAL = 2, /* dot products are the truncated exponential */
    ATLAS_FEATURE_FOURIER = 3,     /* random Fourier features of a Gaussian kernel */
    ATLAS_FEATURE_RBF = 4          /* Gaussians around random centres */
};

/* Text of the last failure on this thread, one line, "" if there was none; never NULL. Valid until the next failure on this thread. */
ATLAS_API const char* atlas_last_error(void);

/* "out of memory" and the like; "unknown status" for a number that is none. Never NULL, valid for ever. */
ATLAS_API const char* atlas_status_name(enum atlas_status status);

/* File that holds these functions, for ggml_backend_load. "" if the system does not tell. Valid until the process ends. */
ATLAS_API const char* atlas_library_path(void);

#ifdef __cplusplus
}
#endif

#endif
