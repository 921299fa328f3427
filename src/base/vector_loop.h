#pragma once

// Loops whose steps the compiler may take several at a time, though sums then come out rounded otherwise: gcc's own `simd`, which starts no
// threads. Other compilers decide for themselves.

#if defined(__GNUC__) && !defined(__clang__)
#define ATLAS_VECTOR_PRAGMA(text) _Pragma(#text)
#else
#define ATLAS_VECTOR_PRAGMA(text)
#endif
#define ATLAS_VECTOR_LOOP ATLAS_VECTOR_PRAGMA(omp simd)
/** Its sums, by their variables. */
#define ATLAS_VECTOR_SUM(...) ATLAS_VECTOR_PRAGMA(omp simd reduction(+ : __VA_ARGS__))
