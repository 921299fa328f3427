#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace atlas::tool {

/** One switch of the launcher: --atlas-<name> VALUE sets an environment variable of the library. Made from the library's options.def. */
struct Setting {
    std::string flag;      ///< without the leading --
    const char* variable;  ///< as docs/options.md lists it
    std::string allowed;   ///< values
    const char* initial;   ///< the default, "" if there is none
    const char* help;      ///< one line
    bool implies_one;      ///< without a value it means 1
    bool expert;           ///< for experiments, not in the short help
};

/** Every switch, in the order of the help text: those for users first. */
const std::vector<Setting>& settings();

/** The switch of that name (without --), or nullptr. */
const Setting* find_setting(std::string_view flag);

/** The names of the users' switches, separated by commas: for error messages. */
std::string setting_names();

/** A text that describes the switches for --help; with those for experts if `all`. */
std::string describe_settings(bool all);

}  // namespace atlas::tool
