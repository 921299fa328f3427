#include "host/calibration.h"

#include <cstdio>
#include <exception>
#include <filesystem>
#include <memory>
#include <string>

#include "atlas/calibration.h"
#include "base/option_words.h"
#include "base/options.h"
#include "base/parallel.h"
#include "host/side_car_writer.h"
#include "runtime/plugin_runtime.h"
#include "side_car/calibration.h"
#include "side_car/side_car.h"

namespace atlas::host {
namespace {

/** What is gathered, and the text that the last call returned. */
struct State {
    std::unique_ptr<runtime::Calibration> calibration;
    std::string error;
};

State& state() {
    static State& instance = *new State;
    return instance;
}

void stop() {
    attention::set_probe_sink(nullptr);
    runtime::plugin_runtime()->set_calibration(nullptr);
    state().calibration.reset();
}

/** Runs a step; no exception leaves, and only a failure has a text. */
template <typename Step>
const char* guarded(const Step& step) {
    Status status;
    try {
        status = step();
    } catch (const std::exception& error) {
        status = Status::out_of_memory(std::string("calibration: ") + error.what());
    }
    if (status.is_ok()) return nullptr;
    state().error = status.message();
    return state().error.c_str();
}

/** Settings under which corrections would be of something else. */
Status check_options(const Options& options) {
    const auto wrong = [](const char* what) {
        return Status::invalid_argument(std::string("calibration needs ") + what);
    };
    if (options.device != DeviceMode::kOwner) return wrong("ATLAS_DEVICE=owner");
    if (options.sparse.mode != AttentionMode::kSparse) return wrong("ATLAS_MODE=sparse");
    if (options.sparse.rest == Rest::kDrop) return wrong("ATLAS_REST=estimate");
    if (!options.memory.enabled) return wrong("ATLAS_MEMORY=1");
    if (options.memory.mode != MemoryMode::kCorrect) return wrong("ATLAS_MEMORY_MODE=correct");
    if (!options.side_car.empty()) return wrong("no ATLAS_SIDE_CAR");
    return Status::ok();
}

std::string planner_text(const SparseOptions& options) {
    const auto number = [](double value) {
        char text[32];
        std::snprintf(text, sizeof text, "%g", value);
        return std::string(text);
    };
    return "threshold " + std::to_string(options.threshold) + ", sinks " + std::to_string(options.sinks) + ", window " +
           std::to_string(options.window) + ", keys of " + number(options.share) + ", budget " +
           std::to_string(options.floor) + " to " + std::to_string(options.budget);
}

const char* begin() {
    return guarded([] {
        const Options& options = runtime::plugin_runtime()->options();
        if (Status status = check_options(options); !status.is_ok()) return status;
        state().calibration =
            std::make_unique<runtime::Calibration>(options.memory, static_cast<uint64_t>(options.sparse.seed));
        runtime::plugin_runtime()->set_calibration(state().calibration.get());
        attention::set_probe_sink(state().calibration.get());
        return Status::ok();
    });
}

const char* document(int held_out) {
    return guarded([&] {
        if (!state().calibration) return Status::invalid_argument("calibration: no atlas_calibration_begin before");
        state().calibration->begin_document(held_out != 0);
        return Status::ok();
    });
}

Status write(const atlas_calibration_target& target, atlas_calibration_report* out) {
    runtime::SideCar side_car;
    runtime::CalibrationReport report;
    const int threads = target.threads > 0 ? target.threads : processor_count();
    if (Status status = state().calibration->finish(threads, &side_car, &report); !status.is_ok()) return status;
    if (Status status = runtime::fingerprint_of(target.model, &side_car.fingerprint); !status.is_ok()) return status;
    side_car.origin.model_name =
        target.model_name ? target.model_name : std::filesystem::path(target.model).filename().string();
    side_car.origin.context = target.context;
    side_car.origin.planner = planner_text(runtime::plugin_runtime()->options().sparse);
    runtime::SideCarContent content;
    if (Status status = encode_side_car(side_car, &content); !status.is_ok()) return status;
    if (Status status = write_side_car(content, target.output); !status.is_ok()) return status;
    if (out) {
        const runtime::CalibrationErrors& e = report.errors;
        *out = {e.dropped,
                e.estimate,
                e.biased,
                e.learning,
                e.calibrated,
                e.chosen,
                report.heads,
                report.dropped,
                report.without_memory,
                report.empty,
                report.calibrated,
                report.biased,
                side_car.origin.observations};
    }
    runtime::SideCar back;
    return read_side_car(target.output, &back);
}

const char* finish(const atlas_calibration_target* target, atlas_calibration_report* report) {
    const char* error = guarded([&] {
        if (!state().calibration) return Status::invalid_argument("calibration: no atlas_calibration_begin before");
        if (!target || !target->output || !target->model)
            return Status::invalid_argument("calibration: output and model have to be named");
        return write(*target, report);
    });
    stop();
    return error;
}

}  // namespace

void* calibration_function(std::string_view name) {
    if (name == "atlas_calibration_begin") return reinterpret_cast<void*>(&begin);
    if (name == "atlas_calibration_document") return reinterpret_cast<void*>(&document);
    if (name == "atlas_calibration_finish") return reinterpret_cast<void*>(&finish);
    return nullptr;
}

}  // namespace atlas::host
