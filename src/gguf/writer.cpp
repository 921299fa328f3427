#include "gguf/writer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "gguf/file_input.h"
#include "gguf/file_output.h"
#include "gguf/printable.h"
#include "gguf/reader.h"

namespace atlas::gguf {
namespace {

constexpr uint64_t kAlignment = 32;  // what GGUF says where general.alignment does not
constexpr size_t kMostWrittenName = 63;

struct Bytes {
    Type type;
    const void* data;
    size_t size;
    size_t elements;
};

Bytes bytes_of(const Tensor& tensor) {
    return std::visit(
        [](const auto& values) {
            using T = typename std::decay_t<decltype(values)>::value_type;
            constexpr Type type = std::is_same_v<T, float>      ? Type::kF32
                                  : std::is_same_v<T, uint16_t> ? Type::kF16
                                                                : Type::kI32;
            return Bytes{type, values.data(), values.size() * sizeof(T), values.size()};
        },
        tensor.data);
}

Status wrong(const std::string& what) { return Status::invalid_argument("GGUF: " + what); }

bool fits_i32(int64_t value) { return value >= INT32_MIN && value <= INT32_MAX; }

Status check_key(const std::string& key, const Value& value) {
    const std::string named = "key '" + printable(key) + "'";
    if (key.empty() || key.size() > kMostKeyBytes) return wrong(named + " is empty or too long");
    if (std::holds_alternative<std::monostate>(value)) return wrong(named + " has no value");
    if (key == "general.alignment") return wrong(named + " is the writer's own");
    if (const auto* text = std::get_if<std::string>(&value); text && text->size() > kMostTextBytes)
        return wrong(named + " has " + std::to_string(text->size()) + " bytes of text, allowed are " +
                     std::to_string(kMostTextBytes));
    if (const auto* list = std::get_if<std::vector<int64_t>>(&value)) {
        if (list->size() > kMostElements || !std::all_of(list->begin(), list->end(), fits_i32))
            return wrong(named + ": a list of more than " + std::to_string(kMostElements) +
                         " numbers, or of numbers beyond 32 bits");
    }
    return Status::ok();
}

Status check_tensor(const Tensor& tensor) {
    const std::string named = "tensor '" + printable(tensor.name) + "'";
    if (tensor.name.empty() || tensor.name.size() > kMostWrittenName)
        return wrong(named + ": a name has 1 to " + std::to_string(kMostWrittenName) + " bytes");
    if (tensor.shape.empty() || tensor.shape.size() > kMostDimensions)
        return wrong(named + " has " + std::to_string(tensor.shape.size()) + " dimensions, allowed are 1 to 4");
    const size_t elements = bytes_of(tensor).elements;
    uint64_t due = 1;
    for (const int64_t size : tensor.shape) {
        if (size < 1 || static_cast<uint64_t>(size) > std::numeric_limits<uint64_t>::max() / sizeof(float) / due)
            return wrong(named + " has a size of " + std::to_string(size));
        due *= static_cast<uint64_t>(size);
    }
    if (due != elements)
        return wrong(named + " has " + std::to_string(elements) + " elements, its shape " + std::to_string(due));
    return Status::ok();
}

Status check_content(const Content& content) {
    for (const auto& [key, value] : content.keys) {
        if (Status status = check_key(key, value); !status.is_ok()) return status;
    }
    std::set<std::string> names;
    for (const Tensor& tensor : content.tensors) {
        if (Status status = check_tensor(tensor); !status.is_ok()) return status;
        if (!names.insert(tensor.name).second)
            return wrong("tensor '" + printable(tensor.name) + "' for a second time");
    }
    if (content.keys.size() > kMostKeys || content.tensors.size() > kMostTensors)
        return wrong("too many keys or tensors");
    return Status::ok();
}

template <typename T>
void put(FileOutput* file, const T& value) {
    static_assert(std::is_arithmetic_v<T>);
    file->append(&value, sizeof value);
}

void put_text(FileOutput* file, const std::string& text) {
    put(file, static_cast<uint64_t>(text.size()));
    file->append(text.data(), text.size());
}

void put_value(FileOutput* file, const Value& value) {
    if (const auto* truth = std::get_if<bool>(&value)) {
        put(file, uint32_t{kBool});
        put(file, static_cast<uint8_t>(*truth));
    } else if (const auto* number = std::get_if<double>(&value)) {
        put(file, uint32_t{kFloat32});
        put(file, static_cast<float>(*number));
    } else if (const auto* text = std::get_if<std::string>(&value)) {
        put(file, uint32_t{kString});
        put_text(file, *text);
    } else if (const auto* whole = std::get_if<int64_t>(&value)) {
        const bool narrow = *whole >= 0 && *whole <= UINT32_MAX;
        put(file, narrow ? uint32_t{kUint32} : uint32_t{kInt64});
        narrow ? put(file, static_cast<uint32_t>(*whole)) : put(file, *whole);
    } else if (const auto* list = std::get_if<std::vector<int64_t>>(&value)) {
        put(file, uint32_t{kArray});
        put(file, uint32_t{kInt32});
        put(file, static_cast<uint64_t>(list->size()));
        for (const int64_t one : *list) put(file, static_cast<int32_t>(one));
    }
}

void put_content(FileOutput* file, const Content& content) {
    file->append("GGUF", 4);
    put(file, uint32_t{3});
    put(file, static_cast<uint64_t>(content.tensors.size()));
    put(file, static_cast<uint64_t>(content.keys.size()));
    for (const auto& [key, value] : content.keys) {
        put_text(file, key);
        put_value(file, value);
    }
    uint64_t offset = 0;
    for (const Tensor& tensor : content.tensors) {
        const Bytes bytes = bytes_of(tensor);
        put_text(file, tensor.name);
        put(file, static_cast<uint32_t>(tensor.shape.size()));
        for (const int64_t size : tensor.shape) put(file, size);
        put(file, static_cast<uint32_t>(bytes.type));
        put(file, offset);
        offset += (bytes.size + kAlignment - 1) / kAlignment * kAlignment;
    }
    file->pad(kAlignment);
    for (const Tensor& tensor : content.tensors) {
        const Bytes bytes = bytes_of(tensor);
        file->append(bytes.data, bytes.size);
        file->pad(kAlignment);
    }
}

/** Whether `read` is what becomes of `written`. */
bool same_value(const Value& written, const Value& read) {
    const auto* number = std::get_if<double>(&written);
    const auto* back = std::get_if<double>(&read);
    if (!number || !back) return written == read;
    const auto narrow = static_cast<double>(static_cast<float>(*number));
    return narrow == *back || (std::isnan(narrow) && std::isnan(*back));
}

/** XXH3-64 of a part of a file. */
Status hash_of(const FileInput& file, uint64_t at, uint64_t n, uint64_t* out) {
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    std::vector<char> buffer(std::min<uint64_t>(n, size_t{1} << 20));
    while (n > 0) {
        const uint64_t part = std::min<uint64_t>(n, buffer.size());
        if (Status status = file.read(at, buffer.data(), part); !status.is_ok()) return status;
        XXH3_64bits_update(&state, buffer.data(), part);
        at += part;
        n -= part;
    }
    *out = XXH3_64bits_digest(&state);
    return Status::ok();
}

/** Reads the finished file as anybody would, and compares. */
Status check_written(const Content& content, const std::string& path) {
    const auto differs = [&](const std::string& what) {
        return Status::corrupt(printable(path, 1024) + ": reads back with another " + what);
    };
    Metadata metadata;
    if (Status status = read(path, &metadata); !status.is_ok()) return status;
    if (metadata.keys.size() != content.keys.size() || metadata.tensors.size() != content.tensors.size())
        return differs("number of keys or tensors");
    for (const auto& [key, value] : content.keys) {
        const auto found = metadata.keys.find(key);
        if (found == metadata.keys.end() || !same_value(value, found->second))
            return differs("'" + printable(key) + "'");
    }
    FileInput file;
    if (Status status = file.open(path); !status.is_ok()) return status;
    for (const Tensor& tensor : content.tensors) {
        const Bytes bytes = bytes_of(tensor);
        const auto found = metadata.tensors.find(tensor.name);
        uint64_t hash = 0;
        if (found == metadata.tensors.end() || found->second.type != static_cast<uint32_t>(bytes.type) ||
            found->second.shape != tensor.shape || bytes.size > metadata.bytes - found->second.offset)
            return differs("tensor '" + printable(tensor.name) + "'");
        if (Status status = hash_of(file, found->second.offset, bytes.size, &hash); !status.is_ok()) return status;
        if (hash != XXH3_64bits(bytes.data, bytes.size)) return differs("tensor '" + printable(tensor.name) + "'");
    }
    return Status::ok();
}

}  // namespace

Status write(const Content& content, const std::string& path, const WriteOptions& options) {
    if (Status status = check_content(content); !status.is_ok()) return status;
    FileOutput file(path);
    put_content(&file, content);
    if (Status status = file.finish(); !status.is_ok()) return status;
    Status status = check_written(content, file.temporary());
    if (status.is_ok() && options.check) status = options.check(file.temporary());
    if (!status.is_ok()) return {status.code(), printable(path, 1024) + ": not written: " + status.message()};
    return file.commit(options.existing == Existing::kReplace);
}

}  // namespace atlas::gguf
