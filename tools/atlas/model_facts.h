#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace atlas::tool {

/** What a GGUF file says of its model; 0 or "" where it says nothing. */
struct ModelFacts {
    std::string path;
    std::string architecture;  ///< general.architecture
    std::string name;
    uint64_t bytes = 0;  ///< of the tensors
    uint64_t parameters = 0;
    int64_t layers = 0;
    int64_t heads = 0;
    int64_t kv_heads = 0;  ///< the most where layers differ
    int64_t key_length = 0;
    int64_t context = 0;  ///< trained, tokens
    int64_t experts = 0;
    int64_t experts_used = 0;
    int64_t sliding_window = 0;
    uint64_t kv_bytes_per_token = 0;                        ///< of an f16 cache, as if all layers saw everything
    std::vector<std::pair<std::string, uint64_t>> by_type;  ///< bytes of tensors by type, the most first
};

/** Reads a file's metadata. The error, "" if there was none. */
std::string read_model(const std::string& path, ModelFacts* facts);

/** "1.0 GiB". */
std::string size_text(uint64_t bytes);

/** Bytes of memory that a program could take now; 0 if the system does not tell. */
uint64_t free_memory();

}  // namespace atlas::tool
