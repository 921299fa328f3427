#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

#include "base/option_enums.h"

namespace atlas {

/** Words of an enumeration in the order of its values. Specialised from the CHOICE rows of base/options.def. */
template <typename Enum>
inline constexpr std::array<const char*, 0> kOptionWords{};

#define FLAG
#define INTEGER(low, high)
#define REAL(low, high)
#define ONE_OF(...)
#define BYTES
#define CHOICE(Enum, ...) \
    template <>           \
    inline constexpr auto kOptionWords<Enum> = std::to_array<const char*>({__VA_ARGS__});
#define WORD(...)
#define TEXT(what)
#define TEXT_OR_1(what)
#define ATLAS_OPTION(group, field, name, type, initial, audience, when, help) type
#include "base/options.def"
#undef FLAG
#undef INTEGER
#undef REAL
#undef ONE_OF
#undef BYTES
#undef CHOICE
#undef WORD
#undef TEXT
#undef TEXT_OR_1

/** Words and values, as variables, side-car files and reports name them. */
template <typename T, size_t N>
using OptionWords = std::array<std::pair<const char*, T>, N>;

template <typename Enum>
constexpr auto option_words() {
    OptionWords<Enum, kOptionWords<Enum>.size()> words{};
    for (size_t i = 0; i < words.size(); ++i) words[i] = {kOptionWords<Enum>[i], static_cast<Enum>(i)};
    return words;
}

/** Empty if the enumeration has no such value. */
template <typename Enum>
std::string word_of(Enum value) {
    const auto at = static_cast<size_t>(value);
    return at < kOptionWords<Enum>.size() ? kOptionWords<Enum>[at] : "";
}

}  // namespace atlas
