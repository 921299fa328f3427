#pragma once

#include <string>
#include <utility>
#include <vector>

namespace atlas::tool {

/** A llama.cpp program, ready to start under Atlas. */
struct Launch {
    std::vector<std::string> command;                              ///< program and arguments
    std::vector<std::pair<std::string, std::string>> environment;  ///< variables to set
    std::string error;                                             ///< not empty: why it cannot be started
};

/**
 * Splits `arguments` (program first) into the program's own and Atlas's switches (--atlas-name VALUE or --atlas-name=VALUE) and adds
 * what the program needs: attention runs on Atlas only as flash attention, and layers have to be given to the device.
 */
Launch plan_launch(const std::vector<std::string>& arguments, const std::string& library);

/**
 * The calibrated memories that lie beside a model: model.atlas.gguf for model.gguf, and for the first of several files also under the name without its
 * -00001-of-0000N. Empty if there are none.
 */
std::string side_car_beside(const std::string& model);

/** Replaces this process by the program. Returns only on failure, with the reason. */
std::string execute(const Launch& launch);

}  // namespace atlas::tool
