#pragma once

#include <functional>
#include <string>
#include <vector>

namespace atlas::tool {

/** How a child ended, and what it wrote. */
struct ChildResult {
    std::string output;
    int status = -1;  ///< of exit; −1 where it did not exit
    int signal = 0;   ///< that ended it
    bool timed_out = false;
    std::string error;  ///< not empty: it could not be started
};

/** Runs `body` in a child, and gives what it returns as output: whatever it loads, or crashes in, does not stay with us. */
ChildResult run_in_child(const std::function<std::string()>& body);

/** Where a program is: itself if it has a slash, else in PATH; "" if nowhere. */
std::string find_program(const std::string& name);

/**
 * Runs a program with variables set, or, where the value is nullptr, unset, and no input. Its standard output, with `with_errors` its standard error too. Ended after so many
 * seconds.
 */
ChildResult run_program(const std::vector<std::string>& command,
                        const std::vector<std::pair<std::string, const char*>>& environment, bool with_errors,
                        int seconds);

}  // namespace atlas::tool
