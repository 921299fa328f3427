#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "attention/correct/far_memory.h"
#include "base/options.h"
#include "base/status.h"
#include "memory/corrector.h"
#include "side_car/magnitudes.h"
#include "side_car/side_car.h"

namespace atlas::side_car {

/**
 * Squared errors of attention's output over the held-out probes of one head (or summed over heads), had its far part been treated in this way; docs/side-car.md
 * says how one is chosen.
 */
struct CalibrationErrors {
    double dropped = 0.0;     ///< far part left out
    double estimate = 0.0;    ///< estimate alone, no mass bias
    double biased = 0.0;      ///< estimate with the mass bias, if that helps
    double learning = 0.0;    ///< and a memory that starts empty in each document
    double calibrated = 0.0;  ///< and a memory that starts from what was fitted
    double best = 0.0;        ///< what the file makes of the head

    void add(const CalibrationErrors& other);
};

struct CalibrationReport {
    CalibrationErrors errors;
    int64_t heads = 0;
    int64_t dropped = 0;         ///< heads whose far part is left out
    int64_t without_memory = 0;  ///< heads that keep the estimate alone
    int64_t empty = 0;           ///< heads whose memory starts empty
    int64_t calibrated = 0;      ///< heads that start from the file
    int64_t biased = 0;          ///< heads with a mass bias
    int64_t thresholds = 0;      ///< matrices that have thresholds
};

/**
 * Gathers the probes of sparse attention over calibration documents, then fits where memories start. Samples of documents to learn from are used up
 * when their document ends, held-out ones are kept: per probe d_k + 2 d_v + 4 floats. begin_document and finish from one thread, while nothing is
 * computed; add() from any.
 */
class Calibration : public attention::ProbeSink {
public:
    Calibration(const MemoryOptions& options, uint64_t seed) : options_(options), seed_(seed) {}

    void begin_document(bool held_out);
    void add(const attention::ProbeSample& sample) override;

    /** Attention of every layer, whether it has a far part or not, tells the side-car's geometry. Thread-safe. */
    void see(int layer, int64_t n_head_kv, int64_t d_k, int64_t d_v);

    /** Of the inputs of products, which come beside the probes, and for which documents may be short. */
    Magnitudes& magnitudes() { return magnitudes_; }

    /**
     * The fit; `out` lacks fingerprint and the origin's model name, planner and context. Without probes it has thresholds alone. Fails if nothing was
     * observed.
     */
    Status finish(int n_threads, SideCar* out, CalibrationReport* report);

private:
    struct Samples {
        std::vector<float> numbers;  // [n][d_k + 2 d_v + 4]
        size_t n = 0;
    };
    struct Head {
        int64_t d_k = 0, d_v = 0;
        Samples present;  // of the document under way
        std::vector<Samples> held_out;
        std::unique_ptr<memory::FeatureMap> map;                 // least squares
        std::vector<double> gram, right;                         // Σ w x xᵀ [D][D], Σ w x rᵀ [D][d_v], not scaled
        std::unique_ptr<memory::Corrector> learner;              // other kinds
        double weight = 0.0, squares = 0.0, observations = 0.0;  // Σ w, Σ ‖r‖², count
        double mass_weight = 0.0, mass = 0.0;                    // Σ w, Σ w ln(exact mass / estimated mass)
    };
    struct Choice;
    using Place = std::pair<int, int64_t>;  // layer, KV head

    void end_document();
    void learn(Head* head, const Samples& samples) const;
    Choice choose(const Head& head) const;

    const MemoryOptions options_;
    const uint64_t seed_;
    Magnitudes magnitudes_;
    std::mutex mutex_;  // guards what add() and see() change
    std::map<Place, Head> heads_;
    std::map<int, SideCarLayer> layers_;
    bool held_out_ = false;
    int64_t documents_ = 0, held_out_documents_ = 0;
};

}  // namespace atlas::side_car
