#pragma once

/** Presets of optimization: from which level on what is there (ATLAS_LEVEL, and optimization_level of atlas/atlas-runtime.h). */
namespace atlas::levels {

inline constexpr double kWeights = 1.0;
inline constexpr double kSparse = 1.0;
inline constexpr double kMemory = 2.0;
inline constexpr double kSparsity = 2.0;
inline constexpr double kLeastSparsity = 0.5;  ///< share of inputs below which one of two models was no faster
inline constexpr int kMemoryDivides = 2;       ///< with memories, budget and threshold of sparse attention by this

}  // namespace atlas::levels
