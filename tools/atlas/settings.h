#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace atlas::tool {

/** One switch of the launcher: --atlas-<name> VALUE sets an environment variable of the library. */
struct Setting {
    const char* flag;      ///< without the leading --
    const char* variable;  ///< as docs/options.md lists it
    const char* help;
    const char* implied;  ///< value of a flag without argument, or nullptr if it needs one
};

/** Every switch, in the order of the help text. */
const std::vector<Setting>& settings();

/** The switch of that name (without --), or nullptr. */
const Setting* find_setting(std::string_view flag);

/** All names, separated by commas: for error messages. */
std::string setting_names();

}  // namespace atlas::tool
