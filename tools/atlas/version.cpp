#include "version.h"

#include "commit.h"
#include "tested.h"

namespace atlas::tool {

std::string version_text() {
    const std::string commit = ATLAS_COMMIT;
    return std::string("atlas " ATLAS_VERSION) + (commit.empty() ? "" : ", commit " + commit) + "\ntested with ggml " +
           host::abi::kTested;
}

}  // namespace atlas::tool
