#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "attention/correct/far_memory.h"
#include "side_car/side_car.h"

namespace atlas::side_car {

/** The side-car that options name, read once a context asks for it. Thread-safe. */
class SideCarUse {
public:
    /** path: ATLAS_SIDE_CAR, may be empty; model: ATLAS_MODEL; budget: bytes that its memories may take. */
    SideCarUse(std::string path, std::string model, uint64_t budget)
        : path_(std::move(path)), model_(std::move(model)), budget_(budget) {}

    const std::string& path() const { return path_; }
    /**
     * The side-car, or null. What is wrong with the file is logged once; whether the model is in use is asked again, since programs load several
     * models.
     */
    std::shared_ptr<const SideCar> find();
    /** The same of its thresholds; null where it has none. */
    std::shared_ptr<const Thresholds> find_thresholds();

private:
    void read_once();
    /** Whether the model in use is the file's. */
    bool is_of_model();

    const std::string path_, model_;
    const uint64_t budget_;
    std::mutex mutex_;  // guards all below
    bool read_ = false;
    bool checked_ = false;
    std::string said_;
    std::shared_ptr<const SideCar> side_car_;
};

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

/** Lets `memory` start from the side-car in use if there is one and it fits; says in the log why not. seed: of random features. */
void start_memories(const SideCarFit& fit, SideCarUse& use, uint64_t seed, attention::FarMemory* memory);

}  // namespace atlas::side_car
