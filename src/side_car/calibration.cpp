#include "side_car/calibration.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "base/parallel.h"
#include "memory/closed_form.h"

namespace atlas::side_car {
namespace {

using attention::InitialMemory;
using memory::Corrector;
using memory::CorrectorConfig;
using memory::CorrectorState;

/** Strengths of what was fitted, in observations of the same kind: how many a new document must show to weigh as much. */
constexpr std::array<double, 5> kStrengths = {16, 64, 256, 1024, 4096};

/** Observations that the held-out errors count for where a memory starts. */
constexpr double kEvidence = 64;

/** One probe among the numbers of its document. */
struct Sample {
    const float* query;
    const float* difference;  ///< estimate minus near output, [d_v]
    const float* residual;
    float near_lse, far_lse, exact_lse;
    double tokens;

    Sample(const float* at, size_t d_k, size_t d_v)
        : query(at),
          difference(at + d_k),
          residual(difference + d_v),
          near_lse(residual[d_v]),
          far_lse(residual[d_v + 1]),
          exact_lse(residual[d_v + 2]),
          tokens(residual[d_v + 3]) {}

    /** Share of the far part in the softmax, with its estimated mass. */
    double share(double bias) const {
        return 1.0 / (1.0 + std::exp(static_cast<double>(near_lse) - static_cast<double>(far_lse) - bias));
    }
    double exact_share() const {
        return 1.0 / (1.0 + std::exp(static_cast<double>(near_lse) - static_cast<double>(exact_lse)));
    }
    /**
     * ‖true output − output‖², for each token that the probe stands for, when the far part has share s and is corrected by m. With the near output taken from both, outputs are
     * s_e (difference + residual) and s (difference + m).
     */
    double error(double s, const float* m, size_t d_v) const {
        const double exact = exact_share();
        double sum = 0.0;
        for (size_t i = 0; i < d_v; ++i) {
            const double d = difference[i];
            const double off = exact * (d + residual[i]) - s * (d + (m ? m[i] : 0.0f));
            sum += off * off;
        }
        return tokens * sum;
    }
};

std::vector<float> narrow(const std::vector<double>& values) { return {values.begin(), values.end()}; }

}  // namespace

void CalibrationErrors::add(const CalibrationErrors& other) {
    dropped += other.dropped;
    estimate += other.estimate;
    biased += other.biased;
    learning += other.learning;
    calibrated += other.calibrated;
    best += other.best;
}

/** What becomes of one head. */
struct Calibration::Choice {
    InitialMemory memory;
    CalibrationErrors errors;
};

void Calibration::begin_document(bool held_out) {
    end_document();
    held_out_ = held_out;
    ++(held_out ? held_out_documents_ : documents_);
}

void Calibration::see(int layer, int64_t n_head_kv, int64_t d_k, int64_t d_v) {
    const std::lock_guard lock(mutex_);
    layers_[layer] = {layer, n_head_kv, d_k, d_v};
}

void Calibration::add(const attention::ProbeSample& sample) {
    const auto d_k = static_cast<size_t>(sample.d_k);
    const auto d_v = static_cast<size_t>(sample.d_v);
    std::vector<float> numbers(d_k + 2 * d_v + 4);
    std::copy_n(sample.query, d_k, numbers.begin());
    float* at = numbers.data() + d_k;
    for (size_t i = 0; i < d_v; ++i) at[i] = sample.far_out[i] - sample.near_out[i];
    std::copy_n(sample.residual, d_v, at + d_v);
    at += 2 * d_v;
    at[0] = sample.near_lse;
    at[1] = sample.far_lse;
    at[2] = sample.exact_lse;
    at[3] = static_cast<float>(sample.tokens);
    if (!std::all_of(numbers.begin(), numbers.end(), [](float x) { return std::isfinite(x); })) return;
    const std::lock_guard lock(mutex_);
    Head& head = heads_[{sample.layer, sample.kv_head}];
    head.d_k = sample.d_k;
    head.d_v = sample.d_v;
    head.present.numbers.insert(head.present.numbers.end(), numbers.begin(), numbers.end());
    ++head.present.n;
}

void Calibration::end_document() {
    std::vector<Head*> heads;
    heads.reserve(heads_.size());
    for (auto& [place, head] : heads_) heads.push_back(&head);
    parallel_for(static_cast<int64_t>(heads.size()), max_threads(), Schedule::kDynamic, [&](int64_t i) {
        Head& head = *heads[static_cast<size_t>(i)];
        if (held_out_ && head.present.n > 0) {
            head.held_out.push_back(std::move(head.present));
        } else {
            learn(&head, head.present);
        }
        head.present = {};
    });
}

void Calibration::learn(Head* head, const Samples& samples) const {
    if (samples.n == 0) return;
    const auto d_k = static_cast<size_t>(head->d_k);
    const auto d_v = static_cast<size_t>(head->d_v);
    const CorrectorConfig config = attention::corrector_config(options_, head->d_k, head->d_v, seed_);
    if (config.least_squares && !head->map) {
        head->map = std::make_unique<memory::FeatureMap>(config.memory.features);
        head->map->set_coefficients(Corrector(config).state().coefficients);
        const size_t n = head->map->features();
        head->gram.assign(n * n, 0.0);
        head->right.assign(n * d_v, 0.0);
    } else if (!config.least_squares && !head->learner) {
        head->learner = std::make_unique<Corrector>(config);
        head->learner->set_learning(true);
    }
    std::vector<float> x(head->map ? head->map->features() : 0);
    for (size_t i = 0; i < samples.n; ++i) {
        const Sample sample(samples.numbers.data() + i * (d_k + 2 * d_v + 4), d_k, d_v);
        const double share = sample.share(0.0);
        const double weight = share * share;
        head->observations += 1.0;
        head->weight += weight;
        for (size_t o = 0; o < d_v; ++o)
            head->squares += static_cast<double>(sample.residual[o]) * static_cast<double>(sample.residual[o]);
        head->mass_weight += weight;
        head->mass += weight * (static_cast<double>(sample.exact_lse) - static_cast<double>(sample.far_lse));
        if (head->learner) {
            head->learner->observe(sample.query, sample.residual, static_cast<float>(weight), sample.tokens);
            continue;
        }
        head->map->map(sample.query, 1, x.data());
        const size_t n = x.size();
        for (size_t r = 0; r < n; ++r) {
            const double wx = weight * static_cast<double>(x[r]);
            for (size_t c = 0; c < n; ++c) head->gram[r * n + c] += wx * static_cast<double>(x[c]);
            for (size_t o = 0; o < d_v; ++o) head->right[r * d_v + o] += wx * static_cast<double>(sample.residual[o]);
        }
    }
}

Calibration::Choice Calibration::choose(const Head& head) const {
    const auto d_k = static_cast<size_t>(head.d_k);
    const auto d_v = static_cast<size_t>(head.d_v);
    const CorrectorConfig config = attention::corrector_config(options_, head.d_k, head.d_v, seed_);
    Choice choice;
    const auto each = [&](const auto& visit) {
        for (const Samples& document : head.held_out) {
            for (size_t i = 0; i < document.n; ++i)
                visit(Sample(document.numbers.data() + i * (d_k + 2 * d_v + 4), d_k, d_v), i == 0);
        }
    };
    // The mass bias: the average error of the log mass, if outputs of held-out probes gain by it.
    double bias = head.mass_weight > 0.0 ? std::clamp(head.mass / head.mass_weight, -20.0, 20.0) : 0.0;
    double with_bias = 0.0;
    each([&](const Sample& sample, bool) {
        choice.errors.dropped += sample.error(0.0, nullptr, d_v);
        choice.errors.estimate += sample.error(sample.share(0.0), nullptr, d_v);
        with_bias += sample.error(sample.share(bias), nullptr, d_v);
    });
    if (!(with_bias < choice.errors.estimate)) bias = 0.0;
    choice.errors.biased = std::min(with_bias, choice.errors.estimate);

    /** Exactly what a context would do with each held-out document: correct, then learn, gate and all. */
    const auto simulate = [&](const std::shared_ptr<const CorrectorState>& start) {
        Corrector corrector(config);
        if (start && !corrector.start_from(start).is_ok()) return HUGE_VAL;
        std::vector<float> m(d_v);
        double error = 0.0;
        each([&](const Sample& sample, bool first) {
            if (first) corrector.reset();
            std::fill(m.begin(), m.end(), 0.0f);
            corrector.correct(sample.query, 1, m.data());
            const double share = sample.share(bias);
            error += sample.error(share, m.data(), d_v);
            corrector.observe(sample.query, sample.residual, static_cast<float>(share * share), sample.tokens);
        });
        return error;
    };
    choice.errors.learning = simulate(nullptr);

    // Where the gate starts: the share of the fit's correction that helps held-out probes most, before anything is learned from them.
    const auto set_gate = [&](CorrectorState* fit) {
        fit->gate = 1.0;
        CorrectorConfig wide = config;
        wide.gate_limit = 1.0;
        Corrector corrector(wide);
        if (!corrector.start_from(std::make_shared<CorrectorState>(*fit)).is_ok()) return;
        std::vector<float> m(d_v);
        std::array<double, 5> sums{};
        double n = 0.0;
        each([&](const Sample& sample, bool) {
            std::fill(m.begin(), m.end(), 0.0f);
            corrector.correct(sample.query, 1, m.data());
            const double share = sample.share(bias);
            const double w = share * share;
            double rr = 0.0, rm = 0.0, mm = 0.0;
            for (size_t i = 0; i < d_v; ++i) {
                const double r = sample.residual[i];
                const double p = m[i];
                rr += r * r;
                rm += r * p;
                mm += p * p;
            }
            const std::array<double, 5> one = {w, w * rr, w * rm, w * mm, w * w * rm * rm};
            for (size_t i = 0; i < one.size(); ++i) sums[i] += one[i];
            n += 1.0;
        });
        fit->gate = sums[3] > 0.0 ? std::clamp(sums[2] / sums[3], 0.0, config.gate_limit) : 0.0;
        for (size_t i = 0; i < sums.size() && n > 0.0; ++i) fit->evidence[i] = sums[i] * kEvidence / n;
    };

    std::shared_ptr<const CorrectorState> best;
    choice.errors.calibrated = HUGE_VAL;
    const auto consider = [&](CorrectorState state) {
        set_gate(&state);
        auto shared = std::make_shared<const CorrectorState>(std::move(state));
        const double error = simulate(shared);
        if (error < choice.errors.calibrated) {
            choice.errors.calibrated = error;
            best = std::move(shared);
        }
    };
    const double scale = head.observations > 0.0 ? std::sqrt(head.squares / head.observations) : 0.0;
    if (head.learner) {
        if (CorrectorState state = head.learner->state(); state.scale > 0.0) consider(std::move(state));
    } else if (head.map && scale > 0.0) {
        const size_t n = head.map->features();
        const auto regularized = [&](double factor) {
            std::vector<double> a(head.gram);
            for (double& x : a) x *= factor;
            for (size_t i = 0; i < n; ++i) a[i * n + i] += config.ridge;
            return a;
        };
        std::vector<double> p = regularized(1.0);
        CorrectorState state;
        if (memory::invert_symmetric(&p, n)) {
            state.weights.resize(d_v * n);
            for (size_t o = 0; o < d_v; ++o) {
                for (size_t r = 0; r < n; ++r) {
                    double sum = 0.0;
                    for (size_t c = 0; c < n; ++c) sum += p[r * n + c] * head.right[c * d_v + o];
                    state.weights[o * n + r] = static_cast<float>(sum / scale);
                }
            }
            state.coefficients.assign(head.map->coefficients().begin(), head.map->coefficients().end());
            state.scale = scale;
            for (const double strength : kStrengths) {
                std::vector<double> covariance = regularized(strength / head.observations);
                if (!memory::invert_symmetric(&covariance, n)) continue;
                state.momentum = narrow(covariance);
                consider(state);
            }
        }
    }

    const CalibrationErrors& e = choice.errors;
    choice.errors.best = std::min({e.dropped, e.biased, e.learning, e.calibrated});
    choice.memory.far = choice.errors.best < e.dropped || e.dropped == 0.0;
    choice.memory.enabled = choice.memory.far && choice.errors.best < e.biased;
    if (choice.memory.far) choice.memory.mass_bias = static_cast<float>(bias);
    if (choice.memory.enabled && e.calibrated <= e.learning) choice.memory.state = best;
    if (!std::isfinite(e.calibrated)) choice.errors.calibrated = e.learning;
    return choice;
}

Status Calibration::finish(int n_threads, SideCar* out, CalibrationReport* report) {
    end_document();
    std::vector<std::pair<Place, const Head*>> heads;
    double observations = 0.0;
    bool held_out = false;
    for (const auto& [place, head] : heads_) {
        heads.emplace_back(place, &head);
        observations += head.observations;
        held_out |= !head.held_out.empty();
    }
    Thresholds thresholds = magnitudes_.thresholds();
    const bool probed = observations > 0.0 && held_out;
    if (!probed && (thresholds.empty() || layers_.empty()))
        return Status::invalid_argument(
            "calibration: no probes, or none in held-out documents; documents must be longer than ATLAS_THRESHOLD, "
            "with "
            "ATLAS_MODE=sparse and ATLAS_MEMORY=1");
    if (!probed) heads.clear();
    std::vector<Choice> choices(heads.size());
    parallel_for(static_cast<int64_t>(heads.size()), n_threads, Schedule::kDynamic,
                 [&](int64_t i) { choices[static_cast<size_t>(i)] = choose(*heads[static_cast<size_t>(i)].second); });
    SideCar side_car;
    side_car.options = options_;
    side_car.seed = seed_;
    side_car.enabled = false;
    *report = {};
    for (size_t i = 0; i < heads.size(); ++i) {
        const auto& [place, head] = heads[i];
        const Choice& choice = choices[i];
        if (side_car.layers.empty() || side_car.layers.back().layer != place.first)
            side_car.layers.push_back(layers_.at(place.first));
        ++report->heads;
        report->errors.add(choice.errors);
        report->dropped += !choice.memory.far;
        report->without_memory += choice.memory.far && !choice.memory.enabled;
        report->empty += choice.memory.enabled && !choice.memory.state;
        report->calibrated += choice.memory.state != nullptr;
        report->biased += choice.memory.mass_bias != 0.0f;
        // Anything but what would happen without the file.
        side_car.enabled |= choice.memory.state != nullptr || choice.memory.mass_bias != 0.0f || !choice.memory.enabled;
        side_car.memories[place] = choice.memory;
    }
    report->thresholds = static_cast<int64_t>(thresholds.weights.size());
    side_car.thresholds = std::move(thresholds);
    side_car.layer_count = layers_.rbegin()->first + 1;
    side_car.origin.documents = documents_;
    side_car.origin.held_out = held_out_documents_;
    side_car.origin.observations = static_cast<int64_t>(observations);
    *out = std::move(side_car);
    return Status::ok();
}

}  // namespace atlas::side_car
