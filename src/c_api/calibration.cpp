#include "atlas/calibration.h"

#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>

#include "base/c_function.h"
#include "base/option_words.h"
#include "base/options.h"
#include "base/parallel.h"
#include "gguf/fingerprint.h"
#include "runtime/plugin_runtime.h"
#include "side_car/calibration.h"
#include "side_car/side_car.h"
#include "side_car/writing.h"

using namespace atlas;
using namespace atlas::c_function;

struct atlas_calibration {
    explicit atlas_calibration(const Options& options)
        : gathered(options.memory, static_cast<uint64_t>(options.sparse.seed)) {}
    side_car::Calibration gathered;
};

namespace {

constexpr size_t kSmallestTarget = offsetof(atlas_calibration_target, replace) + sizeof(bool);
constexpr size_t kSmallestReport = offsetof(atlas_calibration_report, observations) + sizeof(int64_t);

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

/** The caller's target, checked as far as its own fields go. */
Status take_target(const atlas_calibration_target* given, atlas_calibration_target* out, side_car::Target* target) {
    if (Status status = take_sized(given, kSmallestTarget, "target", out); !status.is_ok()) return status;
    if (!out->output || !out->model)
        return Status::invalid_argument("target->output and target->model have to be named");
    *target = {out->output, out->model, out->replace};
    return side_car::check_target(*target);
}

Status write(atlas_calibration& calibration, const atlas_calibration_target* given, atlas_calibration_report* out) {
    atlas_calibration_target target{};
    side_car::Target file;
    if (Status status = take_target(given, &target, &file); !status.is_ok()) return status;
    if (Status status = out ? check_sized(out, kSmallestReport, "report") : Status::ok(); !status.is_ok())
        return status;
    side_car::SideCar side_car;
    side_car::CalibrationReport report;
    const int threads = target.threads > 0 ? target.threads : processor_count();
    if (Status status = calibration.gathered.finish(threads, &side_car, &report); !status.is_ok()) return status;
    if (Status status = gguf::fingerprint_of(file.model, &side_car.fingerprint); !status.is_ok()) return status;
    side_car.origin.model_name =
        target.model_name ? target.model_name : std::filesystem::path(file.model).filename().string();
    side_car.origin.context = target.context;
    side_car.origin.planner = planner_text(runtime::plugin_runtime()->options().sparse);
    if (Status status = write_side_car(side_car, file); !status.is_ok()) return status;
    if (!out) return Status::ok();
    const side_car::CalibrationErrors& e = report.errors;
    give_sized(atlas_calibration_report{0, e.dropped, e.estimate, e.biased, e.learning, e.calibrated, e.best,
                                        report.heads, report.dropped, report.without_memory, report.empty,
                                        report.calibrated, report.biased, side_car.origin.observations,
                                        report.thresholds},
               out);
    return Status::ok();
}

}  // namespace

atlas_status atlas_calibration_check_target(const atlas_calibration_target* target) {
    return guarded(__func__, [&] {
        atlas_calibration_target taken{};
        side_car::Target file;
        return take_target(target, &taken, &file);
    });
}

atlas_status atlas_calibration_begin(atlas_calibration** calibration) {
    return guarded(__func__, [&] {
        if (!calibration) return Status::invalid_argument("calibration is NULL");
        const Options& options = runtime::plugin_runtime()->options();
        if (Status status = check_options(options); !status.is_ok()) return status;
        auto created = std::make_unique<atlas_calibration>(options);
        if (!runtime::plugin_runtime()->begin_calibration(&created->gathered))
            return Status::unsupported("another calibration of this process is under way");
        *calibration = created.release();
        return Status::ok();
    });
}

atlas_status atlas_calibration_begin_document(atlas_calibration* calibration, bool held_out) {
    return guarded(__func__, [&] {
        if (!calibration) return Status::invalid_argument("calibration is NULL");
        if (runtime::plugin_runtime()->calibration() != &calibration->gathered)
            return Status::unsupported("this calibration is finished");
        calibration->gathered.begin_document(held_out);
        return Status::ok();
    });
}

atlas_status atlas_calibration_finish(atlas_calibration* calibration, const atlas_calibration_target* target,
                                      atlas_calibration_report* report) {
    return guarded(__func__, [&] {
        if (!calibration) return Status::invalid_argument("calibration is NULL");
        runtime::plugin_runtime()->end_calibration(&calibration->gathered);
        return write(*calibration, target, report);
    });
}

void atlas_calibration_free(atlas_calibration* calibration) {
    if (!calibration) return;
    runtime::plugin_runtime()->end_calibration(&calibration->gathered);
    delete calibration;
}
