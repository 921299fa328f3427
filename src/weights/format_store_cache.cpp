#include <atomic>
#include <chrono>
#include <map>
#include <mutex>
#include <new>
#include <optional>
#include <shared_mutex>
#include <vector>

#include "base/log.h"
#include "base/parallel.h"
#include "weights/format_store.h"

// What a FormatStore keeps in files, and reads from them.

namespace atlas::weights {

using kernels::WeightMatrix;

std::shared_ptr<FormatStore::Kept> FormatStore::kept_of(const ModelFile& model) const {
    auto kept = std::make_shared<Kept>();
    kept->path = cache_path(settings_.cache, model.path(), settings_.text);
    if (const Status status = cache_key(model, settings_.text, &kept->key); !status.is_ok()) {
        log().warn("rounded weights are not kept: {}", status.message());
        return nullptr;
    }
    for (const auto& file : files_) {
        if (file->kept && file->kept->path == kept->path && file->kept->key == kept->key) return file->kept;
    }
    if (const Status status = FormatCache::open(kept->path, kept->key, &kept->cache); !status.is_ok())
        log().warn("weights are rounded anew: {}", status.message());
    return kept;
}

size_t FormatStore::take_cached(std::vector<const WeightMatrix*>* missing, int n_threads) {
    struct Found {
        const FormatCache* cache = nullptr;
        const CachedMatrix* cached = nullptr;
        std::optional<WeightMatrix> matrix;
    };
    std::vector<Found> found(missing->size());
    {
        const std::shared_lock lock(mutex_);
        for (size_t i = 0; i < found.size(); ++i) {
            const File* const file = file_of(*(*missing)[i]);
            if (!file || !file->kept || !file->kept->cache) continue;
            found[i].cache = file->kept->cache.get();
            found[i].cached = found[i].cache->find(file->model->offset_of((*missing)[i]->data));
        }
    }
    // The host does not end a mapping while a graph is computed with it.
    parallel_for(static_cast<int64_t>(found.size()), n_threads, Schedule::kDynamic, [&](int64_t i, int) {
        Found& one = found[static_cast<size_t>(i)];
        if (one.cached && one.cached->bytes > 0)
            one.matrix = one.cache->take(*one.cached, *(*missing)[static_cast<size_t>(i)]);
    });
    std::vector<const WeightMatrix*> left;
    size_t damaged = 0;
    const std::unique_lock lock(mutex_);
    for (size_t i = 0; i < found.size(); ++i) {
        const Found& one = found[i];
        if (one.matrix) {
            enter(*(*missing)[i], {*one.matrix, nullptr, one.cached->signal, one.cached->noise, true});
            ++stats_.cached;
        } else if (one.cached && one.cached->bytes == 0) {
            enter(*(*missing)[i], {{}, nullptr, 0.0, 0.0, true});
        } else {
            damaged += one.cached != nullptr;
            left.push_back((*missing)[i]);
        }
        if (one.cache && !price_ && one.cache->price() >= 0.0) price_ = one.cache->price();
    }
    if (damaged > 0) {
        log().warn("{} matrices are rounded anew: the file that has them rounded is damaged", damaged);
        for (const WeightMatrix* matrix : left) {
            if (File* const file = file_of(*matrix); file && file->kept) file->kept->changed = true;
        }
    }
    const size_t taken = missing->size() - left.size();
    *missing = std::move(left);
    return taken;
}

Status FormatStore::write(const Kept& kept) const {
    std::map<uint64_t, KeptMatrix> matrices;  // by place in the model's file, which may be mapped twice
    for (const auto& [data, rounded] : rounded_) {
        const File* const file = file_of(rounded.source);
        if (!rounded.chosen || !file || file->kept.get() != &kept) continue;
        CachedMatrix cached;
        cached.source = file->model->offset_of(data);
        cached.rows = rounded.source.rows;
        cached.cols = rounded.source.cols;
        cached.source_type = static_cast<uint8_t>(rounded.source.type);
        cached.signal = rounded.signal;
        cached.noise = rounded.noise;
        if (rounded.matrix.data) {
            cached.type = static_cast<uint8_t>(rounded.matrix.type);
            cached.bytes = rounded.matrix.row_stride * static_cast<uint64_t>(rounded.matrix.rows);
        }
        matrices.insert({cached.source, {cached, rounded.matrix.data}});
    }
    // What an earlier process needed and this one has not yet.
    if (kept.cache) {
        for (const CachedMatrix& cached : kept.cache->matrices()) {
            const std::byte* const data = kept.cache->bytes_of(cached);
            if (data || cached.bytes == 0) matrices.insert({cached.source, {cached, data}});
        }
    }
    std::vector<KeptMatrix> all;
    all.reserve(matrices.size());
    for (const auto& [source, matrix] : matrices) all.push_back(matrix);
    return write_cache(kept.path, kept.key, price_.value_or(-1.0), all);
}

void FormatStore::keep() noexcept try {
    if (settings_.cache.empty() || !unkept_.load(std::memory_order_relaxed)) return;
    const std::lock_guard rounding(rounding_);  // which all who change what is kept have
    unkept_.store(false, std::memory_order_relaxed);
    const std::shared_lock lock(mutex_);
    for (const auto& file : files_) {
        if (!file->kept || !file->kept->changed) continue;
        Kept& kept = *file->kept;
        kept.changed = false;  // one line where it cannot be written, and not one a graph
        const auto begin = std::chrono::steady_clock::now();
        if (const Status status = write(kept); !status.is_ok()) {
            log().warn("rounded weights are not kept: {}", status.message());
            continue;
        }
        const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
        log().info("rounded weights are kept in '{}', written in {:.1f} s", kept.path, seconds.count());
    }
} catch (const std::bad_alloc&) {
    log().warn("rounded weights are not kept: no memory left");
}

}  // namespace atlas::weights
