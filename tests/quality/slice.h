#pragma once

#include <cstdint>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

/**
 * What attention was given in a few KV heads of a real model: the keys and values of one document, and the queries of questions about facts
 * hidden in it. A file of little-endian numbers, written by make_slice.cpp:
 *   char[8] "ATSLICE1"; i32 d, keys, group, heads, questions
 *   per question: i32 first, last          where its fact lies: keys first … last
 *   per head: i32 layer, head
 *     K, then V: per key f16 scale and i8 [d], which it multiplies
 *     per question: f16 [group][d]         the queries that predict the answer's first token, as they come to attention
 */
namespace atlas::quality {

struct Question {
    int32_t first = 0, last = 0;
};

struct SliceHead {
    int32_t layer = 0, head = 0;
    std::vector<uint16_t> k_scale, v_scale;  // [keys], f16
    std::vector<int8_t> k, v;                // [keys][d]
    std::vector<uint16_t> q;                 // [question][group][d], f16
};

struct Slice {
    int32_t d = 0, keys = 0, group = 0;
    std::vector<Question> questions;
    std::vector<SliceHead> heads;
};

template <typename Value>
void put(std::ostream& out, const std::vector<Value>& values) {
    out.write(reinterpret_cast<const char*>(values.data()),
              static_cast<std::streamsize>(values.size() * sizeof(Value)));
}

inline void write_slice(const Slice& slice, const std::string& path) {
    std::ofstream out(path, std::ios::binary);
    out.write("ATSLICE1", 8);
    put(out, std::vector<int32_t>{slice.d, slice.keys, slice.group, static_cast<int32_t>(slice.heads.size()),
                                  static_cast<int32_t>(slice.questions.size())});
    for (const Question& question : slice.questions) put(out, std::vector<int32_t>{question.first, question.last});
    for (const SliceHead& head : slice.heads) {
        put(out, std::vector<int32_t>{head.layer, head.head});
        for (const auto& [scale, codes] : {std::pair{&head.k_scale, &head.k}, {&head.v_scale, &head.v}}) {
            for (size_t key = 0; key < scale->size(); ++key) {
                out.write(reinterpret_cast<const char*>(&(*scale)[key]), 2);
                out.write(reinterpret_cast<const char*>(codes->data() + key * static_cast<size_t>(slice.d)), slice.d);
            }
        }
        put(out, head.q);
    }
    if (!out.flush()) throw std::runtime_error("cannot write " + path);
}

/** Throws std::runtime_error where the file is not as written. */
inline Slice read_slice(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    const auto take = [&](void* to, size_t bytes) {
        if (!in.read(static_cast<char*>(to), static_cast<std::streamsize>(bytes)))
            throw std::runtime_error(path + " is no slice, or ends early");
    };
    char magic[8];
    int32_t sizes[5];
    take(magic, sizeof magic);
    take(sizes, sizeof sizes);
    if (std::memcmp(magic, "ATSLICE1", 8) != 0) throw std::runtime_error(path + " is no slice");
    Slice slice{sizes[0], sizes[1], sizes[2], {}, {}};
    slice.questions.resize(static_cast<size_t>(sizes[4]));
    for (Question& question : slice.questions) {
        take(&question.first, 4);
        take(&question.last, 4);
    }
    const auto d = static_cast<size_t>(slice.d);
    const auto keys = static_cast<size_t>(slice.keys);
    slice.heads.resize(static_cast<size_t>(sizes[3]));
    for (SliceHead& head : slice.heads) {
        take(&head.layer, 4);
        take(&head.head, 4);
        for (auto [scale, codes] : {std::pair{&head.k_scale, &head.k}, {&head.v_scale, &head.v}}) {
            scale->resize(keys);
            codes->resize(keys * d);
            for (size_t key = 0; key < keys; ++key) {
                take(&(*scale)[key], 2);
                take(codes->data() + key * d, d);
            }
        }
        head.q.resize(slice.questions.size() * static_cast<size_t>(slice.group) * d);
        take(head.q.data(), head.q.size() * sizeof head.q[0]);
    }
    return slice;
}

}  // namespace atlas::quality
