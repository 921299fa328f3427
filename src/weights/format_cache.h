#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "kernels/weights.h"
#include "weights/model_file.h"

namespace atlas::weights {

/** A matrix of a model's file and what was made of it. In the cache's file as it is here (docs/design/formats.md). */
struct CachedMatrix {
    uint64_t source = 0;  ///< where it begins in the model's file
    int64_t rows = 0, cols = 0;
    uint64_t offset = 0;               ///< of its rows in the cache's file
    uint64_t bytes = 0;                ///< 0: it stays as it is
    uint64_t hash = 0;                 ///< XXH3-64 of them
    double signal = 0.0, noise = 0.0;  ///< of rows looked at
    uint8_t source_type = 0;           ///< kernels::WeightType
    uint8_t type = 0;
    uint8_t padding[6] = {};
};

/**
 * Tells what a cache's file may be used for: XXH3-64 over the model file's size, time of change and 64 samples of 4 KiB, the settings, and the encoders' version.
 * Errors (io): the file cannot be read. Throws std::bad_alloc.
 */
Status cache_key(const ModelFile& model, const std::string& settings, uint64_t* out);

/**
 * Where the rounded weights of a model's file lie: `place` "1": beside it, else in that folder, under the file's name with that of the settings behind it; in a folder
 * also with a number made of the path, as models of two folders may have one name.
 */
std::string cache_path(const std::string& place, const std::string& model_path, const std::string& settings);

/** A cache's file, mapped. Immutable; thread-safe. Another process may put a new one in its place, which changes nothing here. */
class FormatCache {
public:
    /**
     * Null in *out, and ok: there is none. Errors: io; corrupt, where header or table are not whole; unsupported, where it is of another model, other settings or
     * another version. Data are not looked at: take() does. Throws std::bad_alloc.
     */
    static Status open(const std::string& path, uint64_t key, std::unique_ptr<FormatCache>* out);
    ~FormatCache();
    FormatCache(const FormatCache&) = delete;
    FormatCache& operator=(const FormatCache&) = delete;

    const CachedMatrix* find(uint64_t source) const;
    /** What stands for `matrix`, valid while this lives; nothing where the table has something else there, or its bytes are not those that were written. */
    std::optional<kernels::WeightMatrix> take(const CachedMatrix& cached, const kernels::WeightMatrix& matrix) const;
    /** In the order of the model's file. */
    std::span<const CachedMatrix> matrices() const { return matrices_; }
    /** Those of one of matrices(); null where there are none, or not those that were written. */
    const std::byte* bytes_of(const CachedMatrix& cached) const;
    /** FormatStore's price of a bit; negative: none. */
    double price() const { return price_; }

private:
    FormatCache() = default;
    Status check(const std::string& path, uint64_t key);

    const std::byte* memory_ = nullptr;
    size_t bytes_ = 0;
    double price_ = -1.0;
    std::vector<CachedMatrix> matrices_;  // by source
};

/** A matrix to be kept; `data` has cached.bytes. Offset and hash are the writer's to fill in. */
struct KeptMatrix {
    CachedMatrix cached;
    const std::byte* data = nullptr;
};

/**
 * Writes a cache's file under another name, then gives it its own: readers see a whole one or none. What the system's cache would hold of it is given back. Errors
 * (io): nothing is left behind. `matrices` by source. Throws std::bad_alloc.
 */
Status write_cache(const std::string& path, uint64_t key, double price, std::span<const KeptMatrix> matrices);

}  // namespace atlas::weights
