#include "side_car/use.h"

#include <new>

#include "base/log.h"
#include "gguf/printable.h"
#include "side_car/model_file.h"
#include "side_car/reading.h"

namespace atlas::side_car {
namespace {

/** A context goes on without memories where there is no room for them. */
Status read_guarded(const std::string& path, uint64_t budget, SideCar* out) {
    try {
        return read_side_car(path, budget, out);
    } catch (const std::bad_alloc&) {
        return Status::out_of_memory(gguf::printable(path, 1024) + ": no memory left to read it");
    }
}

}  // namespace

void SideCarUse::read_once() {
    if (read_) return;
    read_ = true;
    auto read = std::make_shared<SideCar>();
    const std::string path = gguf::printable(path_, 1024);
    if (const Status status = read_guarded(path_, budget_, read.get()); !status.is_ok()) {
        log().warn("side-car refused, memories start empty: {}", status.message());
        return;
    }
    if (!read->enabled)
        log().info("side-car {}: calibration found nothing that memories gain, which start empty", path);
    side_car_ = std::move(read);
}

bool SideCarUse::is_of_model() {
    if (checked_) return true;
    const Status status = check_model(side_car_->fingerprint, model_);
    checked_ = status.is_ok();
    if (!checked_ && said_ != status.message()) {
        log().warn("side-car refused, memories start empty: {}: {}", gguf::printable(path_, 1024), status.message());
        said_ = status.message();
    }
    return checked_;
}

std::shared_ptr<const SideCar> SideCarUse::find() {
    if (path_.empty()) return nullptr;
    const std::lock_guard lock(mutex_);
    read_once();
    return side_car_ && side_car_->enabled && is_of_model() ? side_car_ : nullptr;
}

std::shared_ptr<const Thresholds> SideCarUse::find_thresholds() {
    if (path_.empty()) return nullptr;
    const std::lock_guard lock(mutex_);
    read_once();
    if (!side_car_ || side_car_->thresholds.empty() || !is_of_model()) return nullptr;
    return {side_car_, &side_car_->thresholds};
}

bool SideCarFit::see(int layer, int64_t n_head_kv, int64_t d_k, int64_t d_v) {
    if (decided_) return false;
    decided_ = layer <= last_;
    last_ = layer;
    if (!decided_) layers_[layer] = {layer, n_head_kv, d_k, d_v};
    return decided_;
}

Status SideCarFit::fits(const SideCar& side_car) const {
    const auto differs = [](const std::string& what) { return Status::invalid_argument(what); };
    if (const int last = layers_.empty() ? -1 : layers_.rbegin()->first; last != side_car.layer_count - 1)
        return differs("the last layer of the context is " + std::to_string(last) + ", of the side-car " +
                       std::to_string(side_car.layer_count - 1));
    for (const SideCarLayer& layer : side_car.layers) {
        const auto seen = layers_.find(layer.layer);
        if (seen == layers_.end() || seen->second == layer) continue;
        const auto text = [](const SideCarLayer& one) {
            return std::to_string(one.n_head_kv) + " KV heads of " + std::to_string(one.d_k) + " and " +
                   std::to_string(one.d_v);
        };
        return differs("layer " + std::to_string(layer.layer) + " has " + text(seen->second) +
                       " elements, in the side-car " + text(layer));
    }
    return Status::ok();
}

void start_memories(const SideCarFit& fit, SideCarUse& use, uint64_t seed, attention::FarMemory* memory) {
    const std::shared_ptr<const SideCar> side_car = use.find();
    if (!side_car) return;
    if (memory->options().mode == MemoryMode::kBlend) {
        log().info("side-car {}: holds corrections of the estimate, nothing for a blend",
                   gguf::printable(use.path(), 1024));
        return;
    }
    Status status = fit.fits(*side_car);
    const bool random =
        side_car->options.features == MemoryFeatures::kFourier || side_car->options.features == MemoryFeatures::kRbf;
    if (random && side_car->seed != seed)
        status = Status::invalid_argument("its features are those of ATLAS_SEED=" + std::to_string(side_car->seed));
    if (!status.is_ok()) {
        log().warn("side-car {} is not for this context, whose memories start empty: {}",
                   gguf::printable(use.path(), 1024), status.message());
        return;
    }
    memory->set_options(options_with(*side_car, memory->options()));
    // The memories live as long as the side-car that they are part of.
    memory->set_initial(std::shared_ptr<const attention::InitialMemories>(side_car, &side_car->memories));
    log().info("side-car {}: {} layers start from it", gguf::printable(use.path(), 1024), side_car->layers.size());
}

}  // namespace atlas::side_car
