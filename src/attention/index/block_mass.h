#pragma once

#include <cstdint>

#include "attention/index/kv_index.h"

namespace atlas::attention {

/**
 * What a sum of ln I0 over the pairs stands for in a block of alike keys. They do not lie on circles, and few keys do not reach far out on all circles
 * at once: beyond ln n the sum grows with its root only, as the largest of n independent normal logits does (random energy model). With n = 4 the
 * masses are those of the keys, nearly.
 */
float cut_back(float bessel_sum);

/** The same with n = 2: the mass that a block's mean value is given, which says the less the more its keys spread. */
float shrunk_mass(float bessel_sum);

/**
 * Adds to mass [rows][16] what the spread of a panel's keys gives for queries whose pairs have the lengths q_abs [rows][d_k / 2]: the mean of
 * e^{p·δ} over circles, cut back for alike keys. `scale` are the panel's 16 spread scales, `factors` [d_k / 2][16] scratch, `trust` [rows][16]
 * receives e^{shrunk − mass}, 1 for keys that are not alike.
 */
void add_bessel(const Panel& panel, const float* q_abs, int64_t rows, const float* scale, bool alike, float* factors,
                float* trust, float* mass);

/**
 * The same by the Gaussian cumulant, the variance of a pair split evenly: t = ½Σ_i q_i²σ_i² = ¼Σ_p |q_p|²r_p², linear beyond
 * s² = 2t = 2·log_keys, where log_keys = ln of a block's keys.
 */
void add_second_order(const Panel& panel, const float* q_abs, int64_t rows, const float* scale, float log_keys,
                      float* mass);

}  // namespace atlas::attention
