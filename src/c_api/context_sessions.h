#pragma once

#include <string>

#include "atlas/atlas.h"
#include "runtime/collector.h"

struct llama_context;

namespace atlas::c_api {

/**
 * Has `collector`, which the caller made on this thread, note the sessions of a context, one in every known host. ATLAS_OK, or what the caller is to return, and why:
 * NULL, libllama not found, none of Atlas's. Throws std::bad_alloc.
 */
atlas_status reach_sessions(llama_context* ctx, const runtime::Collector& collector, std::string* why);

}  // namespace atlas::c_api
