#pragma once

#include "kernels/cpu/amx/tiles.h"

namespace atlas::kernels::cpu {

/** A polynomial of f, coefficients from the highest power down. */
template <class... Coefficients>
ATLAS_AMX_INLINE __m512 Horner(__m512 f, float highest, Coefficients... others) {
    __m512 y = _mm512_set1_ps(highest);
    ((y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(others))), ...);
    return y;
}

/**
 * 2^x of the lanes that count, 0 in the others; NaN for a NaN that counts. By a polynomial on [−½, ½]: relative error below 3e-7 with
 * degree 5 (as Exp2Weight in attention/prefill-inl.h), below 3e-6 with degree 4 (as PowerOfTwo in select/codes.cpp).
 */
template <int kDegree>
ATLAS_AMX_INLINE __m512 Exp2(__m512 x, __mmask16 counts) {
    static_assert(kDegree == 4 || kDegree == 5);
    const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 f = _mm512_sub_ps(x, whole);
    const __m512 y = kDegree == 4 ? Horner(f, 9.57010e-3f, 5.591786e-2f, 2.4024745e-1f, 6.9312182e-1f, 9.9999926e-1f)
                                  : Horner(f, 0.0013276472f, 0.00967554133f, 0.0555071327f, 0.240221197f, 0.693146967f,
                                           1.0f);
    return _mm512_maskz_scalef_ps(counts, y, whole);
}

}  // namespace atlas::kernels::cpu
