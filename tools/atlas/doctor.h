#pragma once

#include <string>

namespace atlas::tool {

/**
 * Looks at everything that Atlas needs, prints a line for each, and advice below those that are not right. disk: a folder to be tried for the KV cache; "": what ATLAS_KV_DISK
 * names, if it does. The exit status: 0, or 1 where something keeps Atlas from working.
 */
int run_doctor(const std::string& library, const std::string& searched, const std::string& disk);

}  // namespace atlas::tool
