#include "settings.h"

#include <algorithm>
#include <cctype>

#include "launch.h"

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

/** A switch in one line: what matters stands before the first colon or semicolon. */
std::string short_line(const std::string& flag, const std::string& help) {
    constexpr size_t kColumn = 24, kWidth = 92, kLeast = 24;
    std::string line = "  --" + flag;
    line.resize(std::max(line.size() + 1, kColumn), ' ');
    // Not of an address with its port.
    const size_t end = std::min(help.find(": ", kLeast), help.find("; ", kLeast));
    std::string text = help.substr(0, end);
    if (line.size() + text.size() > kWidth) text = text.substr(0, text.rfind(' ', kWidth - line.size() - 2)) + " …";
    return line + text + "\n";
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
    if (Audience::audience != Audience::test)                                     \
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
    if (!all) {
        for (const Setting& setting : settings()) {
            if (!setting.expert) text += short_line(setting.flag, setting.help);
        }
        for (const LauncherSwitch& own : launcher_switches()) text += short_line(own.flag, own.help);
        return text + "Values, defaults, and more for experts: atlas --help-all\n";
    }
    for (const LauncherSwitch& own : launcher_switches())
        text += "  --" + std::string(own.flag) + "  (" + own.allowed + ")\n      " + own.help + "\n";
    bool experts = false;
    for (const Setting& setting : settings()) {
        if (setting.expert && !experts) text += "For experts:\n";
        experts |= setting.expert;
        std::string values = setting.allowed;
        if (*setting.initial) values += "; default " + std::string(setting.initial);
        if (setting.implies_one) values += "; alone: 1";
        text += "  --" + setting.flag + (setting.implies_one ? "[=…]" : "") + "  (" + values + ")\n      " +
                setting.help + "\n";
    }
    return text;
}

}  // namespace atlas::tool
