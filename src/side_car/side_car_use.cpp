#include "side_car/side_car_use.h"

#include <mutex>

#include "base/log.h"
#include "side_car/model_file.h"

namespace atlas::runtime {

std::shared_ptr<const SideCar> side_car_in_use(const Options& options) {
    struct State {
        std::mutex mutex;
        bool read = false;
        bool checked = false;
        std::string said;
        std::shared_ptr<const SideCar> side_car;
    };
    // Leaked on purpose: hosts may make contexts until the very end.
    static State& state = *new State;
    if (options.side_car.empty()) return nullptr;
    const std::lock_guard lock(state.mutex);
    if (!state.read) {
        state.read = true;
        auto read = std::make_shared<SideCar>();
        if (const Status status = read_side_car(options.side_car, read.get()); !status.is_ok()) {
            log().warn("side-car refused, memories start empty: {}", status.message());
        } else if (!read->enabled) {
            log().info("side-car {}: calibration found nothing to gain, it is not used", options.side_car);
        } else {
            state.side_car = std::move(read);
        }
    }
    if (!state.side_car || state.checked) return state.side_car;
    const Status status = check_model(state.side_car->fingerprint, options.model);
    state.checked = status.is_ok();
    if (state.checked) return state.side_car;
    if (state.said != status.message())
        log().warn("side-car refused, memories start empty: {}: {}", options.side_car, status.message());
    state.said = status.message();
    return nullptr;
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

void start_memories(const SideCarFit& fit, const Options& options, attention::FarMemory* memory) {
    const std::shared_ptr<const SideCar> side_car = side_car_in_use(options);
    if (!side_car) return;
    if (memory->options().mode == MemoryMode::kBlend) {
        log().info("side-car {}: holds corrections of the estimate, nothing for a blend", options.side_car);
        return;
    }
    Status status = fit.fits(*side_car);
    const bool random =
        side_car->options.features == MemoryFeatures::kFourier || side_car->options.features == MemoryFeatures::kRbf;
    if (random && side_car->seed != static_cast<uint64_t>(options.sparse.seed))
        status = Status::invalid_argument("its features are those of ATLAS_SEED=" + std::to_string(side_car->seed));
    if (!status.is_ok()) {
        log().warn("side-car {} is not for this context, whose memories start empty: {}", options.side_car,
                   status.message());
        return;
    }
    memory->set_options(options_with(*side_car, memory->options()));
    // The memories live as long as the side-car that they are part of.
    memory->set_initial(std::shared_ptr<const attention::InitialMemories>(side_car, &side_car->memories));
    log().info("side-car {}: {} layers start from it", options.side_car, side_car->layers.size());
}

}  // namespace atlas::runtime
