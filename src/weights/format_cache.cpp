#include "weights/format_cache.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <new>

#include "io/errno_text.h"
#include "weights/format_settings.h"

namespace atlas::weights {
namespace {

using kernels::WeightMatrix;
using kernels::WeightType;

constexpr char kMagic[8] = {'A', 'T', 'L', 'A', 'S', 'W', 'F', '1'};
// Of what encoders write for the same weights: a file of other ones is made anew.
constexpr uint32_t kEncoders = 1;
constexpr size_t kAlignment = 4096;
constexpr uint64_t kSamples = 64;
constexpr uint64_t kMostMatrices = 1 << 20;
constexpr size_t kWriteBytes = size_t{64} << 20;

struct Header {
    char magic[8];
    uint64_t key;
    uint64_t count;
    double price;
    uint64_t bytes;  // of the whole file
    uint64_t hash;   // of the table and, before it, of this header with 0 here
};
static_assert(sizeof(Header) == 48 && sizeof(CachedMatrix) == 72);

uint64_t aligned(uint64_t at) { return (at + kAlignment - 1) / kAlignment * kAlignment; }

uint64_t table_hash(Header header, std::span<const CachedMatrix> matrices) {
    header.hash = 0;
    return XXH3_64bits_withSeed(matrices.data(), matrices.size_bytes(), XXH3_64bits(&header, sizeof header));
}

/** Removes the file unless it got its name. */
class NewFile {
public:
    explicit NewFile(const std::string& path)
        : path_(path), temporary_(path + "." + std::to_string(getpid()) + ".part") {
        fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd_ < 0) fail();
    }
    ~NewFile() {
        if (fd_ < 0) return;
        close(fd_);
        if (!named_) unlink(temporary_.c_str());
    }
    NewFile(const NewFile&) = delete;
    NewFile& operator=(const NewFile&) = delete;

    void write(const void* data, size_t bytes) {
        const auto* from = static_cast<const char*>(data);
        while (bytes > 0 && error_ == 0) {
            const ssize_t done = ::write(fd_, from, std::min(bytes, kWriteBytes));
            if (done < 0 && errno == EINTR) continue;
            if (done < 0) return fail();
            from += done;
            bytes -= static_cast<size_t>(done);
            at_ += static_cast<uint64_t>(done);
            if (at_ - synced_ >= kWriteBytes) sync();
        }
    }
    void pad_to(uint64_t offset) {
        static constexpr char kZeros[kAlignment] = {};
        while (at_ < offset && error_ == 0) write(kZeros, std::min<uint64_t>(offset - at_, kAlignment));
    }
    int finish() {
        if (error_ == 0) sync();
        if (error_ == 0 && rename(temporary_.c_str(), path_.c_str()) != 0) fail();
        named_ = error_ == 0;
        return error_;
    }
    int error() const { return error_; }

private:
    void fail() { error_ = errno; }
    /** What is written is on the disk, and memory has none of it any more: what is left of memory is the model's. */
    void sync() {
        if (fdatasync(fd_) != 0) return fail();
        posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED);
        synced_ = at_;
    }

    std::string path_, temporary_;
    int fd_ = -1;
    int error_ = 0;
    uint64_t at_ = 0, synced_ = 0;
    bool named_ = false;
};

}  // namespace

Status cache_key(const ModelFile& model, const std::string& settings, uint64_t* out) {
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    // Whole blocks, as direct reads want them; the file's end counts by its size alone.
    struct Free {
        void operator()(std::byte* memory) const { std::free(memory); }
    };
    const std::unique_ptr<std::byte, Free> block(static_cast<std::byte*>(std::aligned_alloc(kAlignment, kAlignment)));
    if (!block) throw std::bad_alloc();
    const auto blocks = static_cast<uint64_t>(model.size()) / kAlignment;
    for (uint64_t i = 0; i < std::min<uint64_t>(kSamples, blocks); ++i) {
        const uint64_t at = blocks > kSamples ? (blocks - 1) * i / (kSamples - 1) : i;
        ssize_t got = 0;
        do {
            got = pread(model.fd(), block.get(), kAlignment, static_cast<off_t>(at * kAlignment));
        } while (got < 0 && errno == EINTR);
        if (got < 0) return Status::io("'" + model.path() + "': " + io::errno_text(errno));
        XXH3_64bits_update(&state, block.get(), static_cast<size_t>(got));
    }
    const timespec changed = model.changed();
    const int64_t facts[] = {model.size(), changed.tv_sec, changed.tv_nsec, int64_t{kEncoders}};
    XXH3_64bits_update(&state, facts, sizeof facts);
    XXH3_64bits_update(&state, settings.data(), settings.size());
    *out = XXH3_64bits_digest(&state);
    return Status::ok();
}

std::string cache_path(const std::string& place, const std::string& model_path, const std::string& settings) {
    const std::string ending = "." + settings + ".atlas-weights";
    if (place == "1") return model_path + ending;
    char number[24];
    std::snprintf(number, sizeof number, "-%08llx",
                  static_cast<unsigned long long>(XXH3_64bits(model_path.data(), model_path.size()) & 0xFFFFFFFFu));
    const std::filesystem::path name = std::filesystem::path(model_path).filename();
    return (std::filesystem::path(place) / (name.string() + number + ending)).string();
}

Status FormatCache::open(const std::string& path, uint64_t key, std::unique_ptr<FormatCache>* out) {
    out->reset();
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return errno == ENOENT ? Status::ok() : Status::io("'" + path + "': " + io::errno_text(errno));
    struct stat facts{};
    void* memory = MAP_FAILED;
    int error = fstat(fd, &facts) != 0 ? errno : 0;
    const bool has_header = error == 0 && facts.st_size >= static_cast<off_t>(sizeof(Header));
    if (has_header) {
        memory = mmap(nullptr, static_cast<size_t>(facts.st_size), PROT_READ, MAP_SHARED, fd, 0);
        if (memory == MAP_FAILED) error = errno;
    }
    close(fd);
    if (error != 0) return Status::io("'" + path + "': " + io::errno_text(error));
    if (!has_header) return Status::corrupt("'" + path + "' is not whole");
    std::unique_ptr<FormatCache> cache(new FormatCache);
    cache->memory_ = static_cast<const std::byte*>(memory);
    cache->bytes_ = static_cast<size_t>(facts.st_size);
    if (Status status = cache->check(path, key); !status.is_ok()) return status;
    *out = std::move(cache);
    return Status::ok();
}

Status FormatCache::check(const std::string& path, uint64_t key) {
    Header header;
    std::memcpy(&header, memory_, sizeof header);
    if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0)
        return Status::unsupported("'" + path + "' is no file of rounded weights, or of another version");
    const bool fits = header.bytes == bytes_ && header.count <= kMostMatrices &&
                      header.count <= (bytes_ - sizeof header) / sizeof(CachedMatrix);
    if (!fits) return Status::corrupt("'" + path + "' is not whole");
    matrices_.resize(header.count);
    std::memcpy(matrices_.data(), memory_ + sizeof header, header.count * sizeof(CachedMatrix));
    if (table_hash(header, matrices_) != header.hash) return Status::corrupt("'" + path + "' is damaged");
    if (header.key != key) return Status::unsupported("'" + path + "' is of another model or other settings");
    price_ = header.price;
    return Status::ok();
}

FormatCache::~FormatCache() {
    if (memory_) munmap(const_cast<std::byte*>(memory_), bytes_);
}

const CachedMatrix* FormatCache::find(uint64_t source) const {
    const auto found = std::lower_bound(matrices_.begin(), matrices_.end(), source,
                                        [](const CachedMatrix& one, uint64_t at) { return one.source < at; });
    return found != matrices_.end() && found->source == source ? &*found : nullptr;
}

std::optional<WeightMatrix> FormatCache::take(const CachedMatrix& cached, const WeightMatrix& matrix) const {
    if (cached.rows != matrix.rows || cached.cols != matrix.cols ||
        cached.source_type != static_cast<uint8_t>(matrix.type) || cached.type >= kernels::kWeightTypeCount)
        return std::nullopt;
    const auto type = static_cast<WeightType>(cached.type);
    if (matrix.cols % kernels::weight_type_info(type).block_elements != 0) return std::nullopt;
    const size_t row_bytes = kernels::weight_row_bytes(type, matrix.cols);
    const std::byte* const rows =
        cached.bytes == row_bytes * static_cast<uint64_t>(matrix.rows) ? bytes_of(cached) : nullptr;
    if (!rows) return std::nullopt;
    return WeightMatrix{type, rows, matrix.rows, matrix.cols, row_bytes};
}

const std::byte* FormatCache::bytes_of(const CachedMatrix& cached) const {
    const bool inside = cached.bytes > 0 && cached.offset <= bytes_ && cached.bytes <= bytes_ - cached.offset;
    return inside && XXH3_64bits(memory_ + cached.offset, cached.bytes) == cached.hash ? memory_ + cached.offset
                                                                                       : nullptr;
}

Status write_cache(const std::string& path, uint64_t key, double price, std::span<const KeptMatrix> matrices) {
    std::vector<CachedMatrix> table(matrices.size());
    uint64_t at = sizeof(Header) + matrices.size() * sizeof(CachedMatrix);
    for (size_t i = 0; i < matrices.size(); ++i) {
        table[i] = matrices[i].cached;
        at = aligned(at);
        table[i].offset = at;
        table[i].hash = XXH3_64bits(matrices[i].data, table[i].bytes);
        at += table[i].bytes;
    }
    Header header{{}, key, matrices.size(), price, at, 0};
    std::memcpy(header.magic, kMagic, sizeof kMagic);
    header.hash = table_hash(header, table);
    NewFile file(path);
    file.write(&header, sizeof header);
    file.write(table.data(), table.size() * sizeof(CachedMatrix));
    for (size_t i = 0; i < matrices.size() && file.error() == 0; ++i) {
        file.pad_to(table[i].offset);
        file.write(matrices[i].data, table[i].bytes);
    }
    const int error = file.finish();
    return error == 0 ? Status::ok() : Status::io("'" + path + "': " + io::errno_text(error));
}

}  // namespace atlas::weights
