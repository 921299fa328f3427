#include "eval/score.h"

#include <algorithm>
#include <cctype>
#include <cmath>

namespace atlas::eval {
namespace {

bool is_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0; }

bool has_one(const std::string& text, const std::string& word) {
    for (size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) {
        const size_t end = at + word.size();
        if ((at == 0 || !is_word(text[at - 1])) && (end == text.size() || !is_word(text[end]))) return true;
    }
    return false;
}

/** `words`: one, or several of which each is right, with | between them. */
bool has_word(const std::string& text, const std::string& words) {
    for (size_t begin = 0; begin <= words.size();) {
        const size_t end = std::min(words.find('|', begin), words.size());
        if (end > begin && has_one(text, words.substr(begin, end - begin))) return true;
        begin = end + 1;
    }
    return false;
}

}  // namespace

Interval wilson(int hits, int n) {
    if (n == 0) return {0, 1};
    constexpr double z = 1.959963984540054;
    const double p = static_cast<double>(hits) / n;
    const double scale = 1 + z * z / n;
    const double middle = (p + z * z / (2.0 * n)) / scale;
    const double half = z * std::sqrt(p * (1 - p) / n + z * z / (4.0 * n * n)) / scale;
    return {std::max(0.0, middle - half), std::min(1.0, middle + half)};
}

double share_found(const std::string& answer, const std::vector<std::string>& expected) {
    if (expected.empty()) return 0;
    const auto found = std::count_if(expected.begin(), expected.end(),
                                     [&](const std::string& word) { return has_word(answer, word); });
    return static_cast<double>(found) / static_cast<double>(expected.size());
}

}  // namespace atlas::eval
