#pragma once

#include <algorithm>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "eval/random.h"

namespace atlas::eval {

using Strings = std::vector<std::string>;

/** A name of syllables that no text holds: "Karodin". */
std::string make_name(Random& random);

/** Five digits. */
std::string make_number(Random& random);

/** A sentence of six common words without its full stop: "Silver foxes carry seven paper lanterns". */
std::string make_sentence(Random& random);

/** "a", "a and b", "a, b and c". */
std::string list_of(const Strings& items);

/** First letter small: a name becomes a part of an identifier. */
std::string small(std::string name);

/** n different strings made by `make`. */
template <typename Make>
Strings different(size_t n, Random& random, Make make) {
    std::set<std::string> seen;
    Strings out;
    while (out.size() < n) {
        std::string text = make(random);
        if (seen.insert(text).second) out.push_back(std::move(text));
    }
    return out;
}

/** What stands for {W}, {V}, … in a form. */
using Fields = std::vector<std::pair<std::string, std::string>>;

/** The form with every {NAME} replaced. */
std::string fill(const std::string& form, const Fields& fields);

/** A question's form and that of the beginning of its answer. */
struct Asking {
    std::string question, opening;
};

}  // namespace atlas::eval
