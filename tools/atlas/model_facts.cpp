#include "model_facts.h"

#include <ggml.h>
#include <gguf.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>

namespace atlas::tool {
namespace {

struct Free {
    void operator()(gguf_context* file) const { gguf_free(file); }
};

std::string text_of(const gguf_context* file, const std::string& key) {
    const int64_t id = gguf_find_key(file, key.c_str());
    return id >= 0 && gguf_get_kv_type(file, id) == GGUF_TYPE_STRING ? gguf_get_val_str(file, id) : "";
}

/** A number, or each of a list of numbers. */
std::vector<int64_t> numbers_of(const gguf_context* file, const std::string& key) {
    const int64_t id = gguf_find_key(file, key.c_str());
    if (id < 0) return {};
    switch (gguf_get_kv_type(file, id)) {
        case GGUF_TYPE_UINT32:
            return {gguf_get_val_u32(file, id)};
        case GGUF_TYPE_INT32:
            return {gguf_get_val_i32(file, id)};
        case GGUF_TYPE_UINT64:
            return {static_cast<int64_t>(gguf_get_val_u64(file, id))};
        case GGUF_TYPE_ARRAY:
            break;
        default:
            return {};
    }
    const gguf_type type = gguf_get_arr_type(file, id);
    if (type != GGUF_TYPE_UINT32 && type != GGUF_TYPE_INT32) return {};
    const auto* data = static_cast<const int32_t*>(gguf_get_arr_data(file, id));
    return {data, data + gguf_get_arr_n(file, id)};
}

int64_t number_of(const gguf_context* file, const std::string& key) {
    const std::vector<int64_t> numbers = numbers_of(file, key);
    return numbers.empty() ? 0 : *std::max_element(numbers.begin(), numbers.end());
}

void read_tensors(const gguf_context* file, ModelFacts* facts) {
    std::map<std::string, uint64_t> by_type;
    for (int64_t i = 0; i < gguf_get_n_tensors(file); ++i) {
        const ggml_type type = gguf_get_tensor_type(file, i);
        const size_t bytes = gguf_get_tensor_size(file, i);
        facts->bytes += bytes;
        if (const size_t block = ggml_type_size(type); block > 0)
            facts->parameters += bytes / block * static_cast<uint64_t>(ggml_blck_size(type));
        by_type[ggml_type_name(type)] += bytes;
    }
    facts->by_type.assign(by_type.begin(), by_type.end());
    std::stable_sort(facts->by_type.begin(), facts->by_type.end(),
                     [](const auto& a, const auto& b) { return a.second > b.second; });
}

}  // namespace

std::string read_model(const std::string& path, ModelFacts* facts) {
    std::error_code error;
    if (!std::filesystem::is_regular_file(path, error)) return path + " is not there, or no file";
    char magic[4] = "";
    std::ifstream(path, std::ios::binary).read(magic, sizeof magic);
    if (std::string(magic, 4) != "GGUF") return path + " is no GGUF file";
    ggml_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
    const std::unique_ptr<gguf_context, Free> file(gguf_init_from_file(path.c_str(), {true, nullptr}));
    if (!file) return path + " is damaged, or of a version that ggml " + ggml_version() + " cannot read";
    *facts = {};
    facts->path = path;
    facts->architecture = text_of(file.get(), "general.architecture");
    facts->name = text_of(file.get(), "general.name");
    const auto number = [&](const char* key) { return number_of(file.get(), facts->architecture + "." + key); };
    facts->layers = number("block_count");
    facts->heads = number("attention.head_count");
    facts->key_length = number("attention.key_length");
    if (facts->key_length == 0 && facts->heads > 0) facts->key_length = number("embedding_length") / facts->heads;
    const int64_t given_value_length = number("attention.value_length");
    const int64_t value_length = given_value_length > 0 ? given_value_length : facts->key_length;
    facts->context = number("context_length");
    facts->experts = number("expert_count");
    facts->experts_used = number("expert_used_count");
    facts->sliding_window = number("attention.sliding_window");
    std::vector<int64_t> kv_heads = numbers_of(file.get(), facts->architecture + ".attention.head_count_kv");
    if (kv_heads.empty()) kv_heads = {facts->heads};
    int64_t sum = 0;
    for (int64_t one : kv_heads) sum += one;
    if (kv_heads.size() == 1) sum *= facts->layers;
    facts->kv_heads = *std::max_element(kv_heads.begin(), kv_heads.end());
    facts->kv_bytes_per_token =
        static_cast<uint64_t>(std::max<int64_t>(0, sum * (facts->key_length + value_length) * 2));
    read_tensors(file.get(), facts);
    return {};
}

std::string size_text(uint64_t bytes) {
    const char* const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    auto size = static_cast<double>(bytes);
    size_t unit = 0;
    while (size >= 1000.0 && unit + 1 < std::size(units)) size /= 1024.0, ++unit;
    char text[48];
    std::snprintf(text, sizeof text, unit == 0 || size >= 100.0 ? "%.0f %s" : "%.1f %s", size, units[unit]);
    return text;
}

uint64_t free_memory() {
    std::ifstream file("/proc/meminfo");
    std::string word;
    uint64_t kib = 0;
    while (file >> word) {
        if (word == "MemAvailable:" && file >> kib) return kib * 1024;
    }
    return 0;
}

}  // namespace atlas::tool
