#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "base/status.h"
#include "gguf/types.h"

namespace atlas::gguf {

/** One tensor to be written; the contiguous dimension of `shape` first. Data: F32, F16 (its bits), or I32. */
struct Tensor {
    std::string name;  ///< 1 to 63 bytes
    std::vector<int64_t> shape;
    std::variant<std::vector<float>, std::vector<uint16_t>, std::vector<int32_t>> data;
};

/**
 * What a file consists of. Numbers are written as f32; whole ones as u32 where they fit and as i64 elsewhere; lists as i32, and one with a
 * number that does not fit is refused. Nothing is written that reader.h would pass over.
 */
struct Content {
    std::map<std::string, Value> keys;
    std::vector<Tensor> tensors;
};

enum class Existing { kKeep, kReplace };

struct WriteOptions {
    Existing existing = Existing::kKeep;  ///< kKeep: a file of that name is an error, also one that appears meanwhile
    /** Asked of the finished file, under its temporary name, before it gets its own: an error ends the writing. */
    std::function<Status(const std::string& path)> check;
};

/**
 * Writes a GGUF 3 file, all of it or none: into a new file of a name of its own in the same folder, which is flushed to the disk, read back
 * and compared with `content`, and only then given its name; the folder is flushed last. On any error the temporary file is removed and
 * whatever stood at `path` is as it was. (After the one error that says "written, but", when the folder cannot be flushed, the new file stands
 * there.) A symbolic link at `path` is replaced, not what it points to.
 * Errors: invalid_argument for what cannot be written, or a file that is there; io with the system's reason; what `check` says.
 */
Status write(const Content& content, const std::string& path, const WriteOptions& options = {});

}  // namespace atlas::gguf
