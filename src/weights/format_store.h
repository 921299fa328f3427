#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "kernels/weights.h"
#include "weights/format_cache.h"
#include "weights/format_settings.h"
#include "weights/model_file.h"

namespace atlas::weights {

/** `cols` weights of a row as f32; knows f32, f16, bf16 and the types of bodies(). Thread-safe. */
using WeightDecoder = void (*)(kernels::WeightType type, const std::byte* row, int64_t cols, float* out);

/** Of all that was rounded, models that have ended included. */
struct FormatStats {
    uint64_t matrices = 0;
    uint64_t native_bytes = 0;  ///< of these in their files
    uint64_t bytes = 0;         ///< of what stands for them
    uint64_t held_bytes = 0;    ///< of those that are there still
    double weights = 0.0;
    double signal = 0.0, noise = 0.0;  ///< Σ w², Σ (w − ŵ)² of rows looked at
    uint64_t cached = 0;               ///< matrices that were not rounded: a file of an earlier process had them
    double seconds = 0.0;              ///< that rounding took, or reading that file

    double bits_each() const;  ///< per weight, scales included; 0 where nothing was rounded
    double sqnr_db() const;    ///< the same
};

/**
 * Weights in f32, f16 and bf16 of mapped model files, rounded to fewer bits when they are first multiplied with: what products read instead. Of each
 * matrix, source and result are in memory only while it is rounded: the pages of its file are given back behind. Where one cannot be rounded (no
 * memory) it stays as it is, which is said. With FormatSettings::cache what was rounded is kept in a file (weights/format_cache.h), and read from there by later
 * processes; where that cannot be, a line says why, and all is rounded as without. Thread-safe; what find() has given stays until its mapping ends.
 */
class FormatStore {
public:
    explicit FormatStore(FormatSettings settings) : settings_(std::move(settings)) {}
    FormatStore(const FormatStore&) = delete;
    FormatStore& operator=(const FormatStore&) = delete;

    /** The host has mapped a part of a model there. Where that is no file the log says why it stays as it is. Throws std::bad_alloc. */
    void add(const std::byte* memory, size_t bytes);
    /** That mapping is about to end; nothing is computed with it any more. Nothing for one that was not added. */
    void remove(const std::byte* memory) noexcept;

    /** Parts of a model: the head takes 8 bits where it is rounded at all. */
    enum class Part { kLayers, kHead };
    bool rounds_head() const { return settings_.head; }
    /** Rounds those of `matrices` that are to be and are not yet. Others wait meanwhile. Throws std::bad_alloc before anything is rounded. */
    void round(Part part, std::span<const kernels::WeightMatrix> matrices, WeightDecoder decode, int n_threads);
    /** Writes the files of models of which something was rounded since; for when all of a graph's was. */
    void keep() noexcept;
    /** Once, in the log, where nothing has been rounded by the time that so many products with weights come together. */
    void say_if_nothing_is_rounded(size_t products);
    /** What stands for the matrix at `data`; null: it is as it was. */
    const kernels::WeightMatrix* find(const std::byte* data) const;

    FormatStats stats() const;
    /** {"matrices": …, "native_bytes": …, "bytes": …, "held_bytes": …, "bits_each": …, "sqnr_db": …, "cached": …, "seconds": …}. */
    std::string json() const;

private:
    struct Rounded {
        kernels::WeightMatrix matrix{};       // no data: it stays as it is
        std::unique_ptr<std::byte[]> memory;  // null too where it lies in a cache's file
        double signal = 0.0, noise = 0.0;
        bool chosen = false;  // and not for want of memory
        kernels::WeightMatrix source{};
    };
    /** What is kept of a model's file. */
    struct Kept {
        std::string path;
        uint64_t key = 0;
        std::unique_ptr<FormatCache> cache;  // of an earlier process
        bool changed = false;                // something was rounded that it has not
    };
    /** A mapping of a model's file, of which hosts make several. */
    struct File {
        std::unique_ptr<ModelFile> model;
        std::shared_ptr<Kept> kept;  // of all mappings; null: nothing is to be kept
    };
    /** How a matrix comes out of rounding, by a part of its rows. */
    struct Sample {
        std::vector<double> noise;  // [bodies]
        double signal = 0.0;
    };

    File* file_of(const kernels::WeightMatrix& matrix) const;
    std::shared_ptr<Kept> kept_of(const ModelFile& model) const;
    size_t take_cached(std::vector<const kernels::WeightMatrix*>* missing, int n_threads);
    void enter(const kernels::WeightMatrix& source, Rounded rounded);
    Status write(const Kept& kept) const;
    static Sample measure(const kernels::WeightMatrix& matrix, std::span<const kernels::WeightType> types,
                          WeightDecoder decode);
    void choose_all(Part part, std::span<const kernels::WeightMatrix* const> matrices, WeightDecoder decode,
                    int n_threads, std::vector<std::optional<kernels::WeightType>>* out);
    void round_one(const kernels::WeightMatrix& matrix, kernels::WeightType to, WeightDecoder decode, int n_threads);

    const FormatSettings settings_;
    std::mutex rounding_;  // one at a time; guards price_
    std::optional<double> price_;
    mutable std::shared_mutex mutex_;  // guards what follows; taken after rounding_
    std::vector<std::unique_ptr<File>> files_;
    std::unordered_map<const std::byte*, Rounded> rounded_;
    FormatStats stats_;
    std::atomic<bool> said_{false}, unkept_{false};
};

}  // namespace atlas::weights
