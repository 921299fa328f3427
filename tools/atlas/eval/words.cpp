#include "eval/words.h"

#include <cctype>

namespace atlas::eval {
namespace {

const Strings& onsets() {
    static const Strings all = {"B", "C", "D", "F", "G",  "K",  "L",  "M",  "N",  "P",  "R",
                                "S", "T", "V", "Z", "Br", "Dr", "Kr", "Pl", "Sh", "St", "Tr"};
    return all;
}

const Strings& vowels() {
    static const Strings all = {"a", "e", "i", "o", "u", "ai", "ea"};
    return all;
}

const Strings& middles() {
    static const Strings all = {"b", "d", "f", "g", "k", "l", "m", "n", "r", "s", "t", "v", "nd", "rt", "lm", "st"};
    return all;
}

}  // namespace

std::string make_name(Random& random) {
    std::string name = random.pick(onsets()) + random.pick(vowels());
    for (size_t i = random.below(2) + 1; i > 0; --i) name += random.pick(middles()) + random.pick(vowels());
    static const Strings ends = {"", "n", "r", "l", "s", "din", "ven"};
    return name + random.pick(ends);
}

std::string make_number(Random& random) { return std::to_string(10000 + random.below(90000)); }

std::string make_sentence(Random& random) {
    static const Strings first = {"Silver", "Old", "Patient", "Hungry", "Northern", "Quiet", "Clever", "Golden"};
    static const Strings who = {"foxes", "sailors", "bakers", "herons", "children", "millers", "wolves", "painters"};
    static const Strings what = {"carry", "count", "paint", "bury", "borrow", "follow", "mend", "trade"};
    static const Strings many = {"seven", "twelve", "ninety", "forty", "eleven", "thirty", "sixty", "eight"};
    static const Strings like = {"paper", "copper", "wooden", "broken", "velvet", "frozen", "purple", "hollow"};
    static const Strings things = {"lanterns", "ladders", "violins", "buckets",
                                   "anchors",  "pillows", "candles", "wagons"};
    std::string text = random.pick(first) + " " + random.pick(who) + " " + random.pick(what) + " ";
    text += random.pick(many) + " " + random.pick(like) + " ";
    return text + random.pick(things);
}

std::string list_of(const Strings& items) {
    std::string text;
    for (size_t i = 0; i < items.size(); ++i) text += (i == 0 ? "" : i + 1 == items.size() ? " and " : ", ") + items[i];
    return text;
}

std::string small(std::string name) {
    if (!name.empty()) name[0] = static_cast<char>(std::tolower(static_cast<unsigned char>(name[0])));
    return name;
}

std::string fill(const std::string& form, const Fields& fields) {
    std::string text;
    for (size_t i = 0; i < form.size(); ++i) {
        const size_t end = form[i] == '{' ? form.find('}', i) : std::string::npos;
        if (end == std::string::npos) {
            text += form[i];
            continue;
        }
        const std::string name = form.substr(i + 1, end - i - 1);
        const auto found =
            std::find_if(fields.begin(), fields.end(), [&](const auto& field) { return field.first == name; });
        text += found != fields.end() ? found->second : form.substr(i, end - i + 1);
        i = end;
    }
    return text;
}

}  // namespace atlas::eval
