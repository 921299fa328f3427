#pragma once

#include <span>
#include <string>
#include <utility>
#include <vector>

namespace atlas::tool {

/** A llama.cpp program, ready to start under Atlas. */
struct Launch {
    std::vector<std::string> command;                              ///< program and arguments
    std::vector<std::pair<std::string, std::string>> environment;  ///< variables to set
    std::vector<std::string> notes;                                ///< what the user has to be told before it starts
    std::string error;                                             ///< not empty: why it cannot be started
    bool plain = false;  ///< the program runs without Atlas (--atlas-enable 0)
};

/**
 * Splits `arguments` into the program, its arguments and Atlas's switches (--atlas-name VALUE or --atlas-name=VALUE), which may stand anywhere before a --, and adds
 * what the program needs: attention runs on Atlas only as flash attention, and layers have to be given to the device. A -- before the program ends
 * Atlas's switches and goes; one behind it is the program's.
 *
 * llama.cpp loads one library from GGML_BACKEND_PATH. One that the user has set to another copy of Atlas, or to nothing that is there, is replaced with a
 * note; one that names a plug-in of someone else is not, and that is an error.
 */
Launch plan_launch(const std::vector<std::string>& arguments, const std::string& library);

/** A switch of the launcher's own, beside those that set an option of their name. */
struct LauncherSwitch {
    const char* flag;  ///< without the leading --
    const char* allowed;
    const char* help;
    const char* variable;  ///< that it sets; nullptr: it does something else
};
std::span<const LauncherSwitch> launcher_switches();

/**
 * The calibrated memories that lie beside a model: model.atlas.gguf for model.gguf, and for the first of several files also under the name without its
 * -00001-of-0000N. Empty if there are none.
 */
std::string side_car_beside(const std::string& model);

/** Replaces this process by the program. Returns only on failure, with the reason. */
std::string execute(const Launch& launch);

}  // namespace atlas::tool
