#pragma once

#include "base/status.h"
#include "runtime/model_profile.h"

struct llama_model;

namespace atlas::c_api {

/** Reads a model's metadata through libllama, as long as the model lives. Errors: libllama's function is not to be found. Throws std::bad_alloc. */
Status metadata_of(const llama_model* model, runtime::Metadata* out);

}  // namespace atlas::c_api
