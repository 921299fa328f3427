#include "gguf/reader.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>

#define XXH_INLINE_ALL
#include <xxhash.h>

static_assert(std::endian::native == std::endian::little, "GGUF is read as little endian");

namespace atlas::runtime {
namespace {

constexpr uint64_t kMostKeys = 1 << 16;
constexpr uint64_t kMostTensors = 1 << 20;
constexpr uint64_t kMostElements = 1 << 20;  // of an array that is kept
constexpr int kMostDepth = 4;                // of arrays in arrays

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

/** Bytes of a scalar; 0 for strings and arrays. */
constexpr uint64_t kTypeBytes[kTypes] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

struct Closer {
    void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, Closer>;

Status open_file(const std::string& path, File* file, uint64_t* bytes) {
    file->reset(std::fopen(path.c_str(), "rbe"));
    if (!*file) return Status::io(path + ": " + std::strerror(errno));
    if (fseeko(file->get(), 0, SEEK_END) != 0) return Status::io(path + ": " + std::strerror(errno));
    const off_t end = ftello(file->get());
    // A folder can be opened, and says that it is as long as a file can be.
    if (end < 0 || end == INT64_MAX || fseeko(file->get(), 0, SEEK_SET) != 0)
        return Status::io(path + ": not a regular file");
    *bytes = static_cast<uint64_t>(end);
    return Status::ok();
}

/** Reads forward; the first thing that is wrong stays in status(), and everything after it reads as zero. */
class Reader {
public:
    Reader(const std::string& path, std::FILE* file, uint64_t bytes) : path_(path), file_(file), bytes_(bytes) {}

    const Status& status() const { return status_; }
    bool good() const { return status_.is_ok(); }
    uint64_t position() const { return position_; }

    void fail(const std::string& what) {
        if (good())
            status_ = Status::corrupt(path_ + ": " + what + ", at byte " + std::to_string(position_) + " of " +
                                      std::to_string(bytes_));
    }

    bool room(uint64_t bytes, const char* what) {
        if (good() && bytes > bytes_ - position_)
            fail(std::string(what) + " of " + std::to_string(bytes) + " bytes ends behind the file");
        return good();
    }

    void raw(void* to, uint64_t bytes) {
        if (!room(bytes, "a value")) return;
        if (std::fread(to, 1, bytes, file_) != bytes) {
            fail("cannot be read");
            return;
        }
        position_ += bytes;
    }

    template <typename T>
    T number() {
        T value{};
        raw(&value, sizeof value);
        return value;
    }

    void skip(uint64_t bytes) {
        if (!room(bytes, "an array")) return;
        if (fseeko(file_, static_cast<off_t>(bytes), SEEK_CUR) != 0) fail("cannot be read");
        position_ += bytes;
    }

    std::string text() {
        const auto length = number<uint64_t>();
        if (!room(length, "a text")) return {};
        std::string value(length, '\0');
        raw(value.data(), length);
        return value;
    }

    int64_t whole(uint32_t type) {
        switch (type) {
            case kUint8:
                return number<uint8_t>();
            case kInt8:
                return number<int8_t>();
            case kUint16:
                return number<uint16_t>();
            case kInt16:
                return number<int16_t>();
            case kUint32:
                return number<uint32_t>();
            case kInt32:
                return number<int32_t>();
            default:
                return number<int64_t>();
        }
    }

    GgufValue value(uint32_t type, int depth) {
        switch (type) {
            case kFloat32:
                return static_cast<double>(number<float>());
            case kFloat64:
                return number<double>();
            case kBool:
                return number<uint8_t>() != 0;
            case kString:
                return text();
            case kArray:
                return array(depth);
            default:
                if (type < kTypes) return whole(type);
                fail("a value of type " + std::to_string(type));
                return {};
        }
    }

private:
    GgufValue array(int depth) {
        const auto type = number<uint32_t>();
        const auto n = number<uint64_t>();
        if (good() && (type >= kTypes || depth >= kMostDepth)) fail("an array of type " + std::to_string(type));
        if (!good()) return {};
        const uint64_t each = kTypeBytes[type];
        if (each == 0) {
            for (uint64_t i = 0; i < n && good(); ++i) {
                if (type == kString)
                    skip(number<uint64_t>());
                else
                    array(depth + 1);
            }
            return {};
        }
        if (n > bytes_ / each) fail("an array of " + std::to_string(n) + " values");
        const bool kept = type != kFloat32 && type != kFloat64 && type != kBool && n <= kMostElements;
        if (!kept) {
            if (good()) skip(n * each);
            return {};
        }
        if (!room(n * each, "an array")) return {};
        std::vector<int64_t> values(n);
        for (int64_t& one : values) one = whole(type);
        return values;
    }

    const std::string& path_;
    std::FILE* file_;
    uint64_t bytes_, position_ = 0;
    Status status_;
};

void read_tensors(Reader& reader, uint64_t n, GgufFile* file) {
    for (uint64_t i = 0; i < n && reader.good(); ++i) {
        const std::string name = reader.text();
        const auto dimensions = reader.number<uint32_t>();
        if (dimensions > 4)
            reader.fail("tensor '" + name.substr(0, 64) + "' with " + std::to_string(dimensions) + " dimensions");
        GgufTensor tensor;
        for (uint32_t d = 0; d < dimensions && reader.good(); ++d) {
            const auto elements = reader.number<int64_t>();
            if (elements < 0)
                reader.fail("tensor '" + name.substr(0, 64) + "' with a size of " + std::to_string(elements));
            tensor.shape.push_back(elements);
        }
        tensor.type = reader.number<uint32_t>();
        tensor.offset = reader.number<uint64_t>();
        if (reader.good()) file->tensors[name] = std::move(tensor);
    }
}

}  // namespace

Status read_gguf(const std::string& path, GgufFile* out) {
    GgufFile read;
    File file;
    if (Status status = open_file(path, &file, &read.bytes); !status.is_ok()) return status;
    read.path = path;
    Reader reader(path, file.get(), read.bytes);
    const auto magic = reader.number<uint32_t>();
    if (!reader.good() || magic != 0x46554747)  // "GGUF"
        return Status::corrupt(path + ": not a GGUF file");
    const auto version = reader.number<uint32_t>();
    if (reader.good() && version != 2 && version != 3)
        reader.fail("GGUF version " + std::to_string(version) + ", known are 2 and 3");
    const auto n_tensors = reader.number<uint64_t>();
    const auto n_keys = reader.number<uint64_t>();
    if (n_tensors > kMostTensors) reader.fail(std::to_string(n_tensors) + " tensors");
    if (n_keys > kMostKeys) reader.fail(std::to_string(n_keys) + " keys");
    for (uint64_t i = 0; i < n_keys && reader.good(); ++i) {
        const std::string key = reader.text();
        const auto type = reader.number<uint32_t>();
        read.keys[key] = reader.value(type, 0);
    }
    read_tensors(reader, n_tensors, &read);
    if (!reader.good()) return reader.status();
    uint64_t alignment = 32;
    if (const auto given = read.keys.find("general.alignment"); given != read.keys.end()) {
        const auto* number = std::get_if<int64_t>(&given->second);
        if (!number || *number <= 0 || *number > (1 << 20) || (*number & (*number - 1)) != 0)
            return Status::corrupt(path + ": general.alignment is not a power of two up to 2^20");
        alignment = static_cast<uint64_t>(*number);
    }
    read.data_begin = (reader.position() + alignment - 1) / alignment * alignment;
    for (auto& [name, tensor] : read.tensors) {
        if (tensor.offset > read.bytes || read.data_begin > read.bytes - tensor.offset)
            return Status::corrupt(path + ": tensor '" + name.substr(0, 64) + "' begins behind the file");
        tensor.offset += read.data_begin;
    }
    *out = std::move(read);
    return Status::ok();
}

Status read_tensor(const GgufFile& file, const std::string& name, std::vector<float>* out) {
    const auto found = file.tensors.find(name);
    if (found == file.tensors.end()) return Status::corrupt(file.path + ": no tensor '" + name + "'");
    const GgufTensor& tensor = found->second;
    if (tensor.type != 0)
        return Status::corrupt(file.path + ": tensor '" + name + "' has type " + std::to_string(tensor.type) +
                               ", allowed is 0 (F32)");
    const uint64_t most = (file.bytes - tensor.offset) / sizeof(float);
    uint64_t n = 1;
    for (const int64_t elements : tensor.shape) {
        if (elements <= 0 || static_cast<uint64_t>(elements) > most / n)
            return Status::corrupt(file.path + ": tensor '" + name + "' ends behind the file, which has " +
                                   std::to_string(file.bytes) + " bytes");
        n *= static_cast<uint64_t>(elements);
    }
    File opened;
    uint64_t bytes = 0;
    if (Status status = open_file(file.path, &opened, &bytes); !status.is_ok()) return status;
    std::vector<float> values(n);
    if (fseeko(opened.get(), static_cast<off_t>(tensor.offset), SEEK_SET) != 0 ||
        std::fread(values.data(), sizeof(float), n, opened.get()) != n)
        return Status::io(file.path + ": tensor '" + name + "' cannot be read");
    for (uint64_t i = 0; i < n; ++i) {
        if (!std::isfinite(values[i]))
            return Status::corrupt(file.path + ": tensor '" + name + "': element " + std::to_string(i) + " is " +
                                   (std::isnan(values[i]) ? "NaN" : "infinite"));
    }
    *out = std::move(values);
    return Status::ok();
}

Status fingerprint_of(const std::string& path, uint64_t* out) {
    constexpr uint64_t kPieces = 64;
    constexpr uint64_t kPieceBytes = 4096;
    GgufFile gguf;
    if (Status status = read_gguf(path, &gguf); !status.is_ok()) return status;
    File file;
    uint64_t bytes = 0;
    if (Status status = open_file(path, &file, &bytes); !status.is_ok()) return status;
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    std::vector<char> buffer(1 << 20);
    const auto add = [&](uint64_t from, uint64_t length) {
        if (fseeko(file.get(), static_cast<off_t>(from), SEEK_SET) != 0) return false;
        for (uint64_t done = 0; done < length;) {
            const uint64_t n = std::min<uint64_t>(buffer.size(), length - done);
            if (std::fread(buffer.data(), 1, n, file.get()) != n) return false;
            XXH3_64bits_update(&state, buffer.data(), n);
            done += n;
        }
        return true;
    };
    bool read = add(0, std::min(gguf.data_begin, bytes));
    const uint64_t data = bytes > gguf.data_begin ? bytes - gguf.data_begin : 0;
    for (uint64_t i = 0; i < kPieces && read; ++i) {
        const uint64_t at = data > kPieceBytes ? (data - kPieceBytes) * i / (kPieces - 1) : 0;
        read = add(gguf.data_begin + at, std::min(kPieceBytes, data));
    }
    if (!read) return Status::io(path + ": cannot be read");
    XXH3_64bits_update(&state, &bytes, sizeof bytes);
    *out = XXH3_64bits_digest(&state);
    return Status::ok();
}

}  // namespace atlas::runtime
