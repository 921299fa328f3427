#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

#include "base/option_words.h"

/** Reads the defaults of base/options.def, which are written as a user would write them. A test sets each of them by name. */
namespace atlas::defaults {

constexpr bool flag(std::string_view text) { return text == "1"; }

constexpr uint64_t whole(std::string_view digits) {
    uint64_t value = 0;
    for (const char digit : digits) value = 10 * value + static_cast<uint64_t>(digit - '0');
    return value;
}

constexpr int integer(std::string_view text) { return static_cast<int>(whole(text)); }

/** Both parts are exact, so their quotient is the nearest double, as a literal would be. */
constexpr double real(std::string_view text) {
    const size_t point = std::min(text.find('.'), text.size());
    double scale = 1.0;
    uint64_t value = whole(text.substr(0, point));
    for (size_t i = point + 1; i < text.size(); ++i, scale *= 10.0) value = 10 * value + whole(text.substr(i, 1));
    return static_cast<double>(value) / scale;
}

constexpr uint64_t bytes(std::string_view text) {
    switch (text.back()) {
        case 'K':
            return whole(text.substr(0, text.size() - 1)) << 10;
        case 'M':
            return whole(text.substr(0, text.size() - 1)) << 20;
        case 'G':
            return whole(text.substr(0, text.size() - 1)) << 30;
        default:
            return whole(text);
    }
}

template <typename Enum>
constexpr Enum choice(std::string_view text) {
    for (const auto& [word, value] : option_words<Enum>()) {
        if (text == word) return value;
    }
    throw std::logic_error("base/options.def: a default that is none of its words");
}

inline std::string text(const char* text) { return text; }

}  // namespace atlas::defaults
