#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

namespace atlas::gguf {

/** Value of a metadata key. Arrays other than of whole numbers, and what is longer than the limits below, read as monostate. */
using Value = std::variant<std::monostate, bool, int64_t, double, std::string, std::vector<int64_t>>;

/** Tensor types that are written, by ggml's numbers. Files may have others, which are kept as numbers. */
enum class Type : uint32_t { kF32 = 0, kF16 = 1, kI32 = 26 };

// What a file may ask a reader to hold, whatever its own size: a file can be sparse, and then its size says nothing. Real models have some
// tens of keys, up to a few thousand tensors, and 20 MB of tokenizer, most of it arrays that are passed over.
constexpr uint64_t kMostKeys = 1 << 16;
constexpr uint64_t kMostTensors = 1 << 17;
constexpr uint64_t kMostKeyBytes = 65535;    ///< of a key's name: GGUF's own limit
constexpr uint64_t kMostNameBytes = 256;     ///< of a tensor's name; GGUF's own limit is 64
constexpr uint64_t kMostTextBytes = 4096;    ///< of a text that is kept; longer ones (chat templates) are passed over
constexpr uint64_t kMostElements = 1 << 16;  ///< of an array that is kept
constexpr uint64_t kMostKept = uint64_t{32} << 20;    ///< bytes of all that is kept
constexpr uint64_t kMostHeader = uint64_t{64} << 20;  ///< bytes before the tensors' data: bounds the time, too
constexpr int kMostDepth = 4;                         ///< of arrays in arrays
constexpr uint32_t kMostDimensions = 4;

/** GGUF's numbers of value types. */
enum : uint32_t {
    kUint8,
    kInt8,
    kUint16,
    kInt16,
    kUint32,
    kInt32,
    kFloat32,
    kBool,
    kString,
    kArray,
    kUint64,
    kInt64,
    kFloat64,
    kTypes
};

}  // namespace atlas::gguf
