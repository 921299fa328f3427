#pragma once

#include <cstddef>
#include <cstdint>

namespace atlas::kernels {

/** Blocks per panel: a panel holds one block's moments per vector lane. */
inline constexpr size_t kPanelBlocks = 16;

/**
 * out[row·16 + b] = scale[b] · Σ_i q[row·d + i] · m[i·16 + b] for row < rows, b < 16; m is i8 [d][16]. `panel` is scratch for d·16 floats.
 * `q`, `panel` and `out` aligned to 64 bytes. Thread-safe.
 */
void panel_product(const float* q, size_t rows, const int8_t* m, const float* scale, size_t d, float* panel,
                   float* out);

/** The same for u8 factors. */
void panel_product(const float* q, size_t rows, const uint8_t* m, const float* scale, size_t d, float* panel,
                   float* out);

/**
 * out[row·16 + b] += Σ_p ln I0(q[row·pairs + p] · scale[b] · r[p·16 + b]), q ≥ 0, r u8 [pairs][16]: the log of the mean of e^{q·δ} over
 * points δ evenly spread on circles of radius r per pair. ln I0(z) by a rational fit: |error| < 0.008 below z = 20, relative < 0.2 %.
 */
void panel_log_bessel(const float* q, size_t rows, const uint8_t* r, const float* scale, size_t pairs, float* panel,
                      float* out);

/** The fit of ln I0 used above, z ≥ 0. */
float log_bessel_i0(float z);

/** o[row·d + i] += Σ_b p[row·16 + b] · v[b·d + i]; v is i8 [16][d]. Factors of the blocks belong into p. */
void panel_value(const float* p, size_t rows, const int8_t* v, size_t d, float* o);

/** values[i] = e^{values[i] − shift}, 0 for −inf; returns the sum. n need not be a multiple of anything. */
float exp_sum(float* values, size_t n, float shift);

/**
 * Which of 64·pages cells belong to lanes of the set: bit i of cells[page] is bit (lane of cell i) of `lanes`. members [pages][32] hold 4 bits per
 * cell: cell i of a page in the low half of byte i, cell i + 32 in the high half.
 */
void cells_of_lanes(const uint8_t* members, size_t pages, uint16_t lanes, uint64_t* cells);

/** Largest of n values; −inf for n = 0. */
float max_of(const float* values, size_t n);

}  // namespace atlas::kernels
