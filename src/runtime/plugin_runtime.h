#pragma once

#include <memory>

#include "runtime/runtime.h"

namespace atlas::runtime {

/**
 * The Runtime of the plug-in that this code is part of. ggml's entry points take no context from which it could come, so it is the one thing that hangs on the
 * process; nothing but them and the C API's functions may ask for it. Never null: the default options until it is started.
 *
 * It is never destroyed. Hosts keep contexts and buffers beyond main, and may make new ones there; statistics of contexts that were not freed by then are
 * written when the library's static objects end.
 */
const std::shared_ptr<Runtime>& plugin_runtime();

/** Makes it with these options, the first time, before anything else of the library is called. A library that is loaded twice keeps the first ones. Errors: Runtime::open_disk(). */
Status start_plugin_runtime(const Options& options);

}  // namespace atlas::runtime
