#pragma once

/** What the machine can do, measured here and now with `threads` threads; the best of several tries. */
double read_bandwidth(int threads);  ///< bytes per second, streaming reads of a buffer larger than any cache
double f32_peak(int threads);        ///< floating-point operations per second, independent fused multiply-adds

/** Operations per second of instructions that add several products to a lane; 0 where there are none. */
struct MatrixPeaks {
    double int8;
    double bf16;
    double tiles;  ///< int8 in tiles of 16 × 64 bytes (AMX)
};
MatrixPeaks matrix_peaks(int threads);
