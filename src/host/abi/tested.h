#pragma once

// What Atlas was seen working with. The launcher has a copy of this file: nothing else may be included here.

namespace atlas::host::abi {

// ggml 0.x. 21: the oldest whose interface was read (a made-up host plays it in tests/host/abi). 25, 26 and 27: seen working (docs/results/hosts.md).
inline constexpr int kOldestMinor = 21;
inline constexpr int kNewestMinor = 27;
inline constexpr const char* kTested = "0.21 to 0.27";

}  // namespace atlas::host::abi
