#pragma once

#include "memory/muon.h"

namespace atlas::memory::reference {

/** Float64 oracle of muon_step. */
std::vector<double> muon_step(NewtonSchulz kind, size_t rows, size_t cols, const std::vector<double>& s);

}  // namespace atlas::memory::reference
