#include "eval/reader.h"

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>

namespace atlas::eval {
namespace {

namespace fs = std::filesystem;

/** FNV-1a. */
class Hash {
public:
    void add(const void* data, size_t size) {
        for (size_t i = 0; i < size; ++i)
            value_ = (value_ ^ static_cast<const unsigned char*>(data)[i]) * 0x100000001b3u;
    }
    void add(const std::string& text) { add(text.c_str(), text.size() + 1); }
    void add(uint64_t number) { add(&number, sizeof number); }
    uint64_t value() const { return value_; }

private:
    uint64_t value_ = 0xcbf29ce484222325u;
};

}  // namespace

uint64_t fingerprint(const std::string& path) {
    constexpr uint64_t kPage = 4096;
    constexpr uint64_t kPages = 64;
    std::ifstream file(path, std::ios::binary);
    std::error_code error;
    const uint64_t size = fs::file_size(path, error);
    if (!file || error) throw std::runtime_error(path + ": " + std::strerror(errno));
    Hash hash;
    hash.add(size);
    std::array<char, kPage> page{};
    for (uint64_t i = 0; i <= kPages; ++i) {
        file.clear();
        file.seekg(static_cast<std::streamoff>(size > kPage ? (size - kPage) / kPages * i : 0));
        file.read(page.data(), static_cast<std::streamsize>(kPage));
        hash.add(page.data(), static_cast<size_t>(file.gcount()));
    }
    return hash.value();
}

Reader::Reader(Session& session, const Plan& plan, std::string key, bool may_read)
    : session_(session), folder_(plan.states), key_(std::move(key)), may_read_(may_read) {
    if (!keeps()) return;
    key_ += " " + plan.cache_type_k + " " + plan.cache_type_v + " " + std::to_string(fingerprint(plan.model));
}

std::string Reader::file_of(const Tokens& document) const {
    Hash hash;
    hash.add(key_);
    hash.add(document.data(), document.size() * sizeof document[0]);
    char name[32];
    std::snprintf(name, sizeof name, "%016llx.state", static_cast<unsigned long long>(hash.value()));
    return folder_ + "/" + name;
}

double Reader::read(const Tokens& document) {
    const auto begin = std::chrono::steady_clock::now();
    document_ = document;
    session_.clear();
    if (keeps()) {
        file_ = file_of(document);
        if (session_.restore(file_, document)) return 0;
        if (!may_read_) throw std::runtime_error(file_ + ": gone, or never written");
    }
    session_.decode(document.data(), static_cast<int>(document.size()), false);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    if (keeps()) session_.save(file_, document);
    return seconds;
}

bool Reader::back() {
    if (session_.keep(static_cast<int>(document_.size()))) return true;
    if (!keeps()) return false;
    session_.clear();
    if (!session_.restore(file_, document_)) throw std::runtime_error(file_ + ": gone while it was used");
    return true;
}

}  // namespace atlas::eval
