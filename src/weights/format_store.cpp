#include "weights/format_store.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <new>

#include "base/log.h"
#include "base/parallel.h"
#include "base/per_thread.h"
#include "weights/encode.h"

namespace atlas::weights {
namespace {

using kernels::WeightMatrix;
using kernels::WeightType;

// Of a matrix so many rows are rounded to every type to see which one it takes.
constexpr int64_t kSampleRows = 32;
constexpr int64_t kRowsPerTask = 16;
constexpr int kHeadBits = 8;
// A graph with fewer is a part of one.
constexpr size_t kProductsOfAModel = 4;

double square_error(const float* exact, const float* rounded, int64_t n) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; ++i) {
        const double error = static_cast<double>(exact[i]) - static_cast<double>(rounded[i]);
        sum += error * error;
    }
    return sum;
}

double square_sum(const float* x, int64_t n) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    return sum;
}

size_t source_bytes(const WeightMatrix& matrix) {
    return static_cast<size_t>(matrix.rows - 1) * matrix.row_stride +
           kernels::weight_row_bytes(matrix.type, matrix.cols);
}

}  // namespace

void FormatStore::add(const std::byte* memory, size_t bytes) {
    remove(memory);  // a host that has not said that an earlier mapping ended
    auto file = std::make_unique<File>();
    if (const Status status = ModelFile::open(memory, bytes, &file->model); !status.is_ok()) {
        log().warn("ATLAS_WEIGHT_FORMAT takes no part for {} bytes of weights: {}", bytes, status.message());
        return;
    }
    const std::unique_lock lock(mutex_);
    if (!settings_.cache.empty()) file->kept = kept_of(*file->model);
    files_.push_back(std::move(file));
}

void FormatStore::remove(const std::byte* memory) noexcept {
    const std::unique_lock lock(mutex_);
    const auto found =
        std::find_if(files_.begin(), files_.end(), [&](const auto& file) { return file->model->memory() == memory; });
    if (found == files_.end()) return;
    std::erase_if(rounded_, [&](const auto& entry) {
        if (!(*found)->model->maps(entry.first, 1)) return false;
        const WeightMatrix& matrix = entry.second.matrix;
        stats_.held_bytes -= static_cast<uint64_t>(matrix.rows) * matrix.row_stride;
        return true;
    });
    files_.erase(found);
}

const WeightMatrix* FormatStore::find(const std::byte* data) const {
    const std::shared_lock lock(mutex_);
    const auto found = rounded_.find(data);
    return found == rounded_.end() || !found->second.matrix.data ? nullptr : &found->second.matrix;
}

FormatStore::File* FormatStore::file_of(const WeightMatrix& matrix) const {
    for (const auto& file : files_) {
        if (file->model->maps(matrix.data, source_bytes(matrix))) return file.get();
    }
    return nullptr;
}

void FormatStore::round(Part part, std::span<const WeightMatrix> matrices, WeightDecoder decode, int n_threads) {
    std::vector<const WeightMatrix*> missing;
    const auto find_missing = [&] {
        const std::shared_lock lock(mutex_);
        missing.clear();
        for (const WeightMatrix& matrix : matrices) {
            if (!rounded_.contains(matrix.data) && file_of(matrix) && !bodies(matrix.cols).empty())
                missing.push_back(&matrix);
        }
    };
    find_missing();
    if (missing.empty()) return;
    const std::lock_guard rounding(rounding_);
    find_missing();  // another graph may have been here
    if (missing.empty()) return;
    const auto begin = std::chrono::steady_clock::now();
    const auto seconds_since = [](auto from) {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - from).count();
    };
    if (const size_t taken = take_cached(&missing, n_threads); taken > 0) {
        const std::unique_lock lock(mutex_);
        stats_.seconds += seconds_since(begin);
        log().info("weights: {} matrices as they were rounded before, read in {:.1f} s", taken, seconds_since(begin));
    }
    if (missing.empty()) return;
    std::vector<std::optional<WeightType>> types;
    choose_all(part, missing, decode, n_threads, &types);
    auto said = begin;
    for (size_t i = 0; i < missing.size(); ++i) {
        const auto now = std::chrono::steady_clock::now();
        if (now - said > std::chrono::seconds(2)) {
            said = now;
            log().info("weights: {} of {} matrices rounded", i, missing.size());
        }
        if (types[i]) {
            round_one(*missing[i], *types[i], decode, n_threads);
        } else {
            const std::unique_lock lock(mutex_);
            enter(*missing[i], {{}, nullptr, 0.0, 0.0, true});
        }
    }
    const double seconds = seconds_since(begin);
    const std::unique_lock lock(mutex_);
    stats_.seconds += seconds;
    log().info("weights: {} of {} matrices rounded in {:.1f} s; {} MiB stand for {} MiB", stats_.matrices,
               rounded_.size(), seconds, stats_.bytes >> 20, stats_.native_bytes >> 20);
}

void FormatStore::say_if_nothing_is_rounded(size_t products) {
    if (products < kProductsOfAModel || said_.load(std::memory_order_relaxed)) return;
    const std::shared_lock lock(mutex_);
    if (stats_.matrices > 0 || said_.exchange(true)) return;
    log().warn("ATLAS_WEIGHT_FORMAT takes no part: {}",
               files_.empty()
                   ? "the program has not mapped its model's file (--load-mode none, or --no-mmap of older ones)"
                   : "the model's layers have no weights in f32, f16 or bf16 that are mapped");
}

FormatStore::Sample FormatStore::measure(const WeightMatrix& matrix, std::span<const WeightType> types,
                                         WeightDecoder decode) {
    Sample sample;
    sample.noise.assign(types.size(), 0.0);
    std::vector<float> exact(static_cast<size_t>(matrix.cols)), rounded(exact.size());
    std::vector<std::byte> bytes;
    const int64_t rows = std::min(matrix.rows, kSampleRows);
    for (int64_t i = 0; i < rows; ++i) {
        const int64_t row = matrix.rows * i / rows;
        decode(matrix.type, matrix.data + static_cast<size_t>(row) * matrix.row_stride, matrix.cols, exact.data());
        sample.signal += square_sum(exact.data(), matrix.cols);
        for (size_t t = 0; t < types.size(); ++t) {
            bytes.resize(kernels::weight_row_bytes(types[t], matrix.cols));
            encode_weights(types[t], exact.data(), matrix.cols, bytes.data());
            decode(types[t], bytes.data(), matrix.cols, rounded.data());
            sample.noise[t] += square_error(exact.data(), rounded.data(), matrix.cols);
        }
    }
    return sample;
}

void FormatStore::choose_all(Part part, std::span<const WeightMatrix* const> matrices, WeightDecoder decode,
                             int n_threads, std::vector<std::optional<WeightType>>* out) {
    out->resize(matrices.size());
    if (part == Part::kHead || settings_.kind == FormatSettings::Kind::kFixed) {
        const int bits = part == Part::kHead ? kHeadBits : settings_.bits;
        const bool floats = part == Part::kLayers && settings_.floats;
        for (size_t i = 0; i < matrices.size(); ++i)
            (*out)[i] = floats ? float_body_of(matrices[i]->cols) : body_of(bits, matrices[i]->cols);
        return;
    }
    std::vector<Sample> samples(matrices.size());
    parallel_for(static_cast<int64_t>(matrices.size()), n_threads, Schedule::kDynamic, [&](int64_t i, int) {
        const auto at = static_cast<size_t>(i);
        samples[at] = measure(*matrices[at], bodies(matrices[at]->cols), decode);
        for (double& noise : samples[at].noise) noise /= std::max(samples[at].signal, 1e-300);
    });
    std::vector<Candidate> candidates(matrices.size());
    for (size_t i = 0; i < matrices.size(); ++i) {
        const WeightMatrix& matrix = *matrices[i];
        candidates[i] = {static_cast<double>(matrix.rows) * static_cast<double>(matrix.cols), bodies(matrix.cols),
                         samples[i].noise, bits_of(matrix.type)};
    }
    // What is met later pays what the first graph, which holds nearly all of a model, did.
    if (!price_) price_ = price_of_a_bit(candidates, settings_.bits_each);
    for (size_t i = 0; i < matrices.size(); ++i) (*out)[i] = choose(candidates[i], *price_);
}

void FormatStore::round_one(const WeightMatrix& matrix, WeightType to, WeightDecoder decode, int n_threads) {
    const size_t row_bytes = kernels::weight_row_bytes(to, matrix.cols);
    std::unique_ptr<std::byte[]> memory(new (std::nothrow) std::byte[row_bytes * static_cast<size_t>(matrix.rows)]);
    if (!memory) {
        log().warn("ATLAS_WEIGHT_FORMAT takes no part for a matrix of {} x {} weights: no memory left", matrix.rows,
                   matrix.cols);
        const std::unique_lock lock(mutex_);
        rounded_[matrix.data] = {};
        return;
    }
    const int64_t tasks = (matrix.rows + kRowsPerTask - 1) / kRowsPerTask;
    parallel_for(tasks, n_threads, Schedule::kDynamic, [&](int64_t task, int) {
        thread_local PerThread<std::vector<float>> of_row;
        std::vector<float>& row = of_row.get();
        row.resize(static_cast<size_t>(matrix.cols));
        for (int64_t r = task * kRowsPerTask; r < std::min(matrix.rows, (task + 1) * kRowsPerTask); ++r) {
            const auto at = static_cast<size_t>(r);
            decode(matrix.type, matrix.data + at * matrix.row_stride, matrix.cols, row.data());
            encode_weights(to, row.data(), matrix.cols, memory.get() + at * row_bytes);
        }
    });
    const WeightMatrix result{to, memory.get(), matrix.rows, matrix.cols, row_bytes};
    double signal = 0.0, noise = 0.0;
    std::vector<float> exact(static_cast<size_t>(matrix.cols)), rounded(exact.size());
    const int64_t rows = std::min(matrix.rows, kSampleRows);
    for (int64_t i = 0; i < rows; ++i) {
        const auto at = static_cast<size_t>(matrix.rows * i / rows);
        decode(matrix.type, matrix.data + at * matrix.row_stride, matrix.cols, exact.data());
        decode(to, memory.get() + at * row_bytes, matrix.cols, rounded.data());
        signal += square_sum(exact.data(), matrix.cols);
        noise += square_error(exact.data(), rounded.data(), matrix.cols);
    }
    const std::unique_lock lock(mutex_);
    enter(matrix, {result, std::move(memory), signal, noise, true});
}

void FormatStore::enter(const WeightMatrix& source, Rounded rounded) {
    File* const file = file_of(source);
    if (!file) return;  // its mapping has ended
    if (Kept* const kept = file->kept.get()) {
        kept->changed |= !kept->cache || !kept->cache->find(file->model->offset_of(source.data));
        if (kept->changed) unkept_.store(true, std::memory_order_relaxed);
    }
    rounded.source = source;
    if (rounded.matrix.data) {
        file->model->drop(source.data, source_bytes(source));
        const uint64_t bytes = rounded.matrix.row_stride * static_cast<uint64_t>(source.rows);
        ++stats_.matrices;
        stats_.native_bytes += source_bytes(source);
        stats_.bytes += bytes;
        stats_.held_bytes += bytes;
        stats_.weights += static_cast<double>(source.rows) * static_cast<double>(source.cols);
        stats_.signal += rounded.signal;
        stats_.noise += rounded.noise;
    }
    rounded_[source.data] = std::move(rounded);
}

double FormatStats::bits_each() const { return weights > 0.0 ? 8.0 * static_cast<double>(bytes) / weights : 0.0; }
double FormatStats::sqnr_db() const { return noise > 0.0 ? 10.0 * std::log10(signal / noise) : 0.0; }

FormatStats FormatStore::stats() const {
    const std::shared_lock lock(mutex_);
    return stats_;
}

std::string FormatStore::json() const {
    const FormatStats s = stats();
    char text[320];
    std::snprintf(
        text, sizeof text,
        "{\"matrices\": %llu, \"native_bytes\": %llu, \"bytes\": %llu, \"held_bytes\": %llu, \"bits_each\": %.3f, "
        "\"sqnr_db\": %.2f, \"cached\": %llu, \"seconds\": %.3f}",
        static_cast<unsigned long long>(s.matrices), static_cast<unsigned long long>(s.native_bytes),
        static_cast<unsigned long long>(s.bytes), static_cast<unsigned long long>(s.held_bytes), s.bits_each(),
        s.sqnr_db(), static_cast<unsigned long long>(s.cached), s.seconds);
    return text;
}

}  // namespace atlas::weights
