#include "gguf/reader.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "gguf/file_input.h"
#include "gguf/printable.h"

static_assert(std::endian::native == std::endian::little, "GGUF is read as little endian");

namespace atlas::gguf {
namespace {

/** Bytes of a scalar; 0 for strings and arrays. */
constexpr std::array<uint64_t, kTypes> kTypeBytes = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

/** Reads forward; the first thing that is wrong stays in status(), and everything after it reads as zero. */
class Reader {
public:
    Reader(const std::string& path, const FileInput& file)
        : path_(printable(path, 1024)), file_(file), end_(std::min(file.bytes(), kMostHeader)) {}

    const Status& status() const { return status_; }
    bool good() const { return status_.is_ok(); }
    uint64_t position() const { return position_; }

    void fail(const std::string& what) {
        if (good())
            status_ = Status::corrupt(path_ + ": " + what + ", at byte " + std::to_string(position_) + " of " +
                                      std::to_string(file_.bytes()));
    }

    /** Counts what is going to be held, before it is. */
    bool keep(uint64_t bytes) {
        if (good() && bytes > kMostKept - kept_) fail("more than " + std::to_string(kMostKept) + " bytes of metadata");
        if (good()) kept_ += bytes;
        return good();
    }

    bool room(uint64_t bytes, const char* what) {
        if (good() && bytes > end_ - position_) {
            fail(std::string(what) + " of " + std::to_string(bytes) + " bytes ends behind " +
                 (end_ == file_.bytes() ? "the file" : std::to_string(kMostHeader) + " bytes of metadata"));
        }
        return good();
    }

    void raw(void* to, uint64_t bytes) {
        if (!room(bytes, "a value")) return;
        auto* out = static_cast<char*>(to);
        while (bytes > 0 && good()) {
            if (position_ < begin_ || position_ >= begin_ + filled_) fill();
            const uint64_t n = std::min(bytes, begin_ + filled_ - position_);
            std::memcpy(out, buffer_.data() + (position_ - begin_), n);
            out += n;
            position_ += n;
            bytes -= n;
        }
    }

    template <typename T>
    T number() {
        T value{};
        raw(&value, sizeof value);
        return value;
    }

    void skip(uint64_t bytes, const char* what) {
        if (room(bytes, what)) position_ += bytes;
    }

    /** Of at most `most` bytes; a longer one is an error. */
    std::string text(uint64_t most, const char* what) {
        const auto length = number<uint64_t>();
        if (good() && length > most) {
            fail(std::string(what) + " of " + std::to_string(length) + " bytes, allowed are " + std::to_string(most));
        }
        return text_of(length, what);
    }

    Value value(uint32_t type, int depth) {
        switch (type) {
            case kFloat32:
                return static_cast<double>(number<float>());
            case kFloat64:
                return number<double>();
            case kBool:
                return number<uint8_t>() != 0;
            case kString: {
                const auto length = number<uint64_t>();
                if (length <= kMostTextBytes) return text_of(length, "a text");
                skip(length, "a text");
                return {};
            }
            case kArray:
                return array(depth);
            default:
                if (type < kTypes) return whole(type);
                fail("a value of type " + std::to_string(type));
                return {};
        }
    }

private:
    void fill() {
        begin_ = position_;
        filled_ = std::min<uint64_t>(buffer_.size(), file_.bytes() - begin_);
        if (Status status = file_.read(begin_, buffer_.data(), filled_); !status.is_ok()) {
            status_ = std::move(status);
            std::memset(buffer_.data(), 0, filled_);
        }
    }

    std::string text_of(uint64_t length, const char* what) {
        if (!room(length, what) || !keep(length)) return {};
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

    Value array(int depth) {
        const auto type = number<uint32_t>();
        const auto n = number<uint64_t>();
        if (good() && (type >= kTypes || depth >= kMostDepth)) fail("an array of type " + std::to_string(type));
        if (!good()) return {};
        const uint64_t each = kTypeBytes[type];
        if (each == 0) {
            // Every turn takes at least eight bytes of the file, or fails.
            for (uint64_t i = 0; i < n && good(); ++i) {
                if (type == kString)
                    skip(number<uint64_t>(), "a text");
                else
                    array(depth + 1);
            }
            return {};
        }
        if (n > end_ / each) fail("an array of " + std::to_string(n) + " values");
        if (!room(n * each, "an array")) return {};
        if (type == kFloat32 || type == kFloat64 || type == kBool || n > kMostElements) {
            skip(n * each, "an array");
            return {};
        }
        if (!keep(n * sizeof(int64_t))) return {};
        std::vector<int64_t> values(n);
        for (int64_t& one : values) one = whole(type);
        return values;
    }

    const std::string path_;
    const FileInput& file_;
    const uint64_t end_;  // nothing is read behind it
    uint64_t position_ = 0, kept_ = 0;
    uint64_t begin_ = 0, filled_ = 0;  // of the file, what the buffer holds
    std::vector<char> buffer_ = std::vector<char>(size_t{1} << 16);
    Status status_;
};

// Of an entry in a map, besides its texts and numbers: a guess that is not too low.
constexpr uint64_t kEntryBytes = 128;

void read_keys(Reader& reader, uint64_t n, Metadata* out) {
    for (uint64_t i = 0; i < n && reader.good() && reader.keep(kEntryBytes); ++i) {
        std::string key = reader.text(kMostKeyBytes, "a key");
        const auto type = reader.number<uint32_t>();
        Value value = reader.value(type, 0);
        if (!out->keys.emplace(key, std::move(value)).second)
            reader.fail("key '" + printable(key) + "' for a second time");
    }
}

void read_infos(Reader& reader, uint64_t n, Metadata* out) {
    for (uint64_t i = 0; i < n && reader.good() && reader.keep(kEntryBytes); ++i) {
        const std::string name = reader.text(kMostNameBytes, "a tensor's name");
        const auto dimensions = reader.number<uint32_t>();
        if (dimensions > kMostDimensions)
            reader.fail("tensor '" + printable(name) + "' with " + std::to_string(dimensions) + " dimensions");
        TensorInfo tensor;
        tensor.elements = 1;
        for (uint32_t d = 0; d < dimensions && reader.good(); ++d) {
            const auto size = reader.number<int64_t>();
            if (size < 0) reader.fail("tensor '" + printable(name) + "' with a size of " + std::to_string(size));
            if (size > 0 && tensor.elements > static_cast<uint64_t>(INT64_MAX) / static_cast<uint64_t>(size))
                reader.fail("tensor '" + printable(name) + "' with more than 2^63 elements");
            tensor.elements *= static_cast<uint64_t>(size);
            tensor.shape.push_back(size);
        }
        tensor.type = reader.number<uint32_t>();
        tensor.offset = reader.number<uint64_t>();
        if (reader.good() && !out->tensors.emplace(name, std::move(tensor)).second)
            reader.fail("tensor '" + printable(name) + "' for a second time");
    }
}

}  // namespace

Status read(const std::string& path, Metadata* out) {
    FileInput file;
    if (Status status = file.open(path); !status.is_ok()) return status;
    Metadata read;
    read.path = path;
    read.shown = printable(path, 1024);
    read.bytes = file.bytes();
    Reader reader(path, file);
    const auto magic = reader.number<uint32_t>();
    if (!reader.good() || magic != 0x46554747)  // "GGUF"
        return Status::corrupt(read.shown + ": not a GGUF file");
    const auto version = reader.number<uint32_t>();
    if (version != 2 && version != 3) reader.fail("GGUF version " + std::to_string(version) + ", known are 2 and 3");
    const auto n_tensors = reader.number<uint64_t>();
    const auto n_keys = reader.number<uint64_t>();
    if (n_tensors > kMostTensors) reader.fail(std::to_string(n_tensors) + " tensors");
    if (n_keys > kMostKeys) reader.fail(std::to_string(n_keys) + " keys");
    read_keys(reader, n_keys, &read);
    read_infos(reader, n_tensors, &read);
    if (!reader.good()) return reader.status();
    uint64_t alignment = 32;
    if (const auto given = read.keys.find("general.alignment"); given != read.keys.end()) {
        const auto* number = std::get_if<int64_t>(&given->second);
        if (!number || *number <= 0 || *number > (1 << 20) || (*number & (*number - 1)) != 0)
            return Status::corrupt(read.shown + ": general.alignment is not a power of two up to 2^20");
        alignment = static_cast<uint64_t>(*number);
    }
    read.data_begin = (reader.position() + alignment - 1) / alignment * alignment;
    for (auto& [name, tensor] : read.tensors) {
        if (tensor.offset > read.bytes || read.data_begin > read.bytes - tensor.offset)
            return Status::corrupt(read.shown + ": tensor '" + printable(name) + "' begins behind the file");
        tensor.offset += read.data_begin;
    }
    *out = std::move(read);
    return Status::ok();
}

Status read_f32(const Metadata& file, const std::string& name, uint64_t most, std::vector<float>* out) {
    const std::string tensor_of = file.shown + ": tensor '" + printable(name) + "'";
    const auto found = file.tensors.find(name);
    if (found == file.tensors.end()) return Status::corrupt(file.shown + ": no tensor '" + printable(name) + "'");
    const TensorInfo& tensor = found->second;
    if (tensor.type != static_cast<uint32_t>(Type::kF32))
        return Status::corrupt(tensor_of + " has type " + std::to_string(tensor.type) + ", allowed is 0 (F32)");
    if (tensor.elements == 0 || tensor.elements > (file.bytes - tensor.offset) / sizeof(float))
        return Status::corrupt(tensor_of + " ends behind the file, which has " + std::to_string(file.bytes) + " bytes");
    if (tensor.elements > most)
        return Status::corrupt(tensor_of + " has " + std::to_string(tensor.elements) + " elements, due are " +
                               std::to_string(most) + " at most");
    FileInput input;
    if (Status status = input.open(file.path); !status.is_ok()) return status;
    std::vector<float> values(tensor.elements);
    if (Status status = input.read(tensor.offset, values.data(), values.size() * sizeof(float)); !status.is_ok())
        return status;
    for (size_t i = 0; i < values.size(); ++i) {
        if (!std::isfinite(values[i]))
            return Status::corrupt(tensor_of + ": element " + std::to_string(i) + " is " +
                                   (std::isnan(values[i]) ? "NaN" : "infinite"));
    }
    *out = std::move(values);
    return Status::ok();
}

}  // namespace atlas::gguf
