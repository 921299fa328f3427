#include "settings.h"

#include <algorithm>
#include <cctype>

namespace atlas::tool {
namespace {

enum class Audience { user, expert, test };

/** What the type of a row says of a switch. */
struct Kind {
    std::string allowed;
    bool flag = false;          ///< 0 or 1
    bool one_if_empty = false;  ///< 1 is a value among others
};

template <typename... Words>
std::string one_of(Words... words) {
    std::string list;
    for (const auto& word : {std::string(words)...}) list += (list.empty() ? "" : ", ") + word;
    return list;
}

std::string name_of(const char* variable) {
    std::string name = variable;
    for (char& letter : name) letter = letter == '_' ? '-' : static_cast<char>(std::tolower(letter));
    return name;
}

Setting setting(const char* variable, const Kind& kind, const char* initial, Audience audience, const char* help) {
    // A flag that is on by itself is only ever switched off, and has to say so.
    const bool off_by_itself = kind.flag && std::string_view(initial) == "0";
    return {name_of(variable),           variable, kind.allowed, initial, help, off_by_itself || kind.one_if_empty,
            audience == Audience::expert};
}

}  // namespace

// clang-format off
#define FLAG Kind{"0, 1", true}
#define INTEGER(low, high) Kind{#low " to " #high}
#define REAL(low, high) Kind{#low " to " #high}
#define ONE_OF(...) Kind{#__VA_ARGS__}
#define BYTES Kind{"bytes, or 512M, 8G"}
#define CHOICE(Enum, ...) Kind{one_of(__VA_ARGS__)}
#define WORD(...) Kind{one_of(__VA_ARGS__)}
#define TEXT(what) Kind{what}
#define TEXT_OR_1(what) Kind{what, false, true}
// clang-format on
#define ATLAS_OPTION(group, field, variable, type, initial, audience, when, help) \
    if (Audience::audience != Audience::test)                               \
        all.push_back(setting(variable, type, #initial, Audience::audience, help));

const std::vector<Setting>& settings() {
    static const std::vector<Setting> made = [] {
        std::vector<Setting> all;
#include "options.def"
        std::stable_partition(all.begin(), all.end(), [](const Setting& one) { return !one.expert; });
        return all;
    }();
    return made;
}

const Setting* find_setting(std::string_view flag) {
    for (const Setting& setting : settings()) {
        if (flag == setting.flag) return &setting;
    }
    return nullptr;
}

std::string setting_names() {
    std::string names;
    for (const Setting& setting : settings()) {
        if (!setting.expert) names += (names.empty() ? "--" : ", --") + setting.flag;
    }
    return names;
}

std::string describe_settings(bool all) {
    std::string text = "Switches (each sets the variable of its name, ATLAS_MODE for --atlas-mode):\n";
    bool experts = false;
    for (const Setting& setting : settings()) {
        if (setting.expert && !all) continue;
        if (setting.expert && !experts) text += "For experts:\n";
        experts |= setting.expert;
        std::string values = setting.allowed;
        if (*setting.initial) values += "; default " + std::string(setting.initial);
        if (setting.implies_one) values += "; alone: 1";
        text += "  --" + setting.flag + (setting.implies_one ? "[=…]" : "") + "  (" + values + ")\n      " +
                setting.help + "\n";
    }
    if (!all) text += "There are more for experts: atlas --help-all\n";
    return text;
}

}  // namespace atlas::tool
