#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "attention/correct/far_memory.h"
#include "base/options.h"
#include "side_car/side_car.h"

namespace atlas::runtime {

/**
 * The side-car that the process's options name, once a context asks for it, or null. What is wrong with the file is logged once; whether the model is
 * in use is asked again, since programs load several models. Thread-safe.
 */
std::shared_ptr<const SideCar> side_car_in_use(const Options& options);

/**
 * Whether a context is one of the side-car's model, as far as attention shows: one pass over its layers must show the last layer of the file's and no
 * layer of another shape. (Layers that run elsewhere are not seen; the last one is, since llama.cpp offloads from the end.)
 */
class SideCarFit {
public:
    /** One call of attention. True once: at the end of the first pass, the moment to ask fits(). */
    bool see(int layer, int64_t n_head_kv, int64_t d_k, int64_t d_v);
    Status fits(const SideCar& side_car) const;

private:
    std::map<int, SideCarLayer> layers_;
    int last_ = -1;
    bool decided_ = false;
};

/** Lets `memory` start from the side-car in use if there is one and it fits; says in the log why not. */
void start_memories(const SideCarFit& fit, const Options& options, attention::FarMemory* memory);

}  // namespace atlas::runtime
