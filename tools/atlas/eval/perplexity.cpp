#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <stdexcept>

#include "eval/measure.h"

namespace atlas::eval {
namespace {

struct Closer {
    void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, Closer>;

File open_base(const std::string& path, bool write) {
    File file(std::fopen(path.c_str(), write ? "wb" : "rb"));
    if (!file) throw std::runtime_error(path + ": " + std::strerror(errno));
    return file;
}

/** ln Σ exp(logits), in double: at 256K entries a float sum would lose what KL divergences are made of. */
double log_sum_exp(const float* logits, int n) {
    const float top = *std::max_element(logits, logits + n);
    double sum = 0;
    for (int i = 0; i < n; ++i) sum += std::exp(static_cast<double>(logits[i] - top));
    return top + std::log(sum);
}

int best_of(const float* values, int n) { return static_cast<int>(std::max_element(values, values + n) - values); }

/** Sums by position: [1, 256), [256, 512), [512, 1024), … */
struct ByPosition {
    std::vector<double> sums;
    std::vector<int64_t> counts;

    void add(int position, double value) {
        size_t bucket = 0;
        for (int limit = 256; position >= limit; limit *= 2) ++bucket;
        if (sums.size() <= bucket) sums.resize(bucket + 1), counts.resize(bucket + 1);
        sums[bucket] += value;
        ++counts[bucket];
    }

    double mean(size_t bucket) const {
        return sums[bucket] / static_cast<double>(std::max<int64_t>(1, counts[bucket]));
    }

    /** Of documents of `length` tokens. */
    static nlohmann::json bounds(size_t bucket, int length) {
        return {{"from", bucket == 0 ? 1 : int64_t{128} << bucket},
                {"to", std::min<int64_t>(int64_t{256} << bucket, length)}};
    }
};

/** The comparison with the first mode's distributions, which lie in a file in the order in which they are met. */
class Divergence {
public:
    Divergence(const std::string& path, bool write, int vocabulary)
        : path_(path),
          write_(write),
          file_(open_base(path, write)),
          mine_(static_cast<size_t>(vocabulary)),
          base_(mine_.size()) {}

    void add(const float* logits, double log_sum, int position) {
        for (size_t i = 0; i < mine_.size(); ++i) mine_[i] = static_cast<float>(logits[i] - log_sum);
        if (write_) {
            if (std::fwrite(mine_.data(), sizeof(float), mine_.size(), file_.get()) != mine_.size())
                throw std::runtime_error(path_ + ": " + std::strerror(errno));
            return;
        }
        if (std::fread(base_.data(), sizeof(float), base_.size(), file_.get()) != base_.size())
            throw std::runtime_error(path_ + ": shorter than expected");
        double divergence = 0;
        for (size_t i = 0; i < mine_.size(); ++i)
            divergence += std::exp(static_cast<double>(base_[i])) * (base_[i] - mine_[i]);
        divergences_.push_back(divergence);
        const int n = static_cast<int>(mine_.size());
        const bool same = best_of(mine_.data(), n) == best_of(base_.data(), n);
        same_best_ += same ? 1 : 0;
        by_position_.add(position, divergence);
        same_by_position_.add(position, same ? 1 : 0);
    }

    /** Nothing for the mode that wrote the file. */
    nlohmann::json result(int length) {
        if (write_) {
            if (std::fflush(file_.get()) != 0) throw std::runtime_error(path_ + ": " + std::strerror(errno));
            return nullptr;
        }
        if (divergences_.empty()) return nullptr;
        const auto n = static_cast<double>(divergences_.size());
        double sum = 0;
        double squares = 0;
        for (const double divergence : divergences_) {
            sum += divergence;
            squares += divergence * divergence;
        }
        const double variance = std::max(0.0, squares / n - sum / n * (sum / n));
        std::sort(divergences_.begin(), divergences_.end());
        nlohmann::json by_position = nlohmann::json::array();
        for (size_t bucket = 0; bucket < by_position_.sums.size(); ++bucket) {
            nlohmann::json part = ByPosition::bounds(bucket, length);
            part["positions"] = by_position_.counts[bucket];
            part["mean"] = by_position_.mean(bucket);
            part["same_top_token"] = same_by_position_.mean(bucket);
            by_position.push_back(std::move(part));
        }
        return {{"positions", divergences_.size()},
                {"by_position", std::move(by_position)},
                {"mean", sum / n},
                {"error", std::sqrt(variance / n)},
                {"p99", divergences_[static_cast<size_t>(0.99 * (n - 1))]},
                {"same_top_token", same_best_ / n}};
    }

private:
    std::string path_;
    bool write_;
    File file_;
    std::vector<float> mine_, base_;
    std::vector<double> divergences_;
    int64_t same_best_ = 0;
    ByPosition by_position_, same_by_position_;
};

}  // namespace

nlohmann::json measure_perplexity(Session& session, const Plan& plan, const std::string& text, const std::string& base,
                                  bool write_base, const Progress& progress) {
    const Tokens tokens = session.tokenize(text);
    const Tokens beginning = session.beginning();
    const int length = plan.perplexity_context;
    const int body = length - static_cast<int>(beginning.size());
    const int64_t needed = static_cast<int64_t>(body) * plan.perplexity_documents;
    if (static_cast<int64_t>(tokens.size()) < needed) {
        throw std::runtime_error("the text has " + std::to_string(tokens.size()) + " tokens; " +
                                 std::to_string(plan.perplexity_documents) + " documents of " + std::to_string(length) +
                                 " need " + std::to_string(needed));
    }
    const int vocabulary = session.vocabulary();
    std::optional<Divergence> divergence;
    if (!base.empty()) divergence.emplace(base, write_base, vocabulary);
    ByPosition losses;
    const int64_t stride = std::max<int64_t>(1, needed / std::max(1, plan.kl_positions));
    double sum = 0;
    double squares = 0;
    int64_t count = 0;
    for (int document = 0; document < plan.perplexity_documents; ++document) {
        const size_t spare = tokens.size() - static_cast<size_t>(needed);
        const size_t at = static_cast<size_t>(document) *
                          (static_cast<size_t>(body) + spare / static_cast<size_t>(plan.perplexity_documents));
        Tokens part = beginning;
        part.insert(part.end(), tokens.begin() + static_cast<ptrdiff_t>(at),
                    tokens.begin() + static_cast<ptrdiff_t>(at) + body);
        session.clear();
        for (int begin = 0; begin < length; begin += plan.perplexity_batch) {
            const int n = std::min(plan.perplexity_batch, length - begin);
            session.decode(part.data() + begin, n, true);
            for (int i = 0; i < n && begin + i + 1 < length; ++i) {
                const float* logits = session.logits(i);
                const double log_sum = log_sum_exp(logits, vocabulary);
                const int position = begin + i + 1;
                const double loss = log_sum - logits[part[static_cast<size_t>(position)]];
                losses.add(position, loss);
                sum += loss;
                squares += loss * loss;
                if (count++ % stride == 0 && divergence) divergence->add(logits, log_sum, position);
            }
            progress("perplexity", n);
        }
    }
    nlohmann::json by_position = nlohmann::json::array();
    for (size_t bucket = 0; bucket < losses.sums.size(); ++bucket) {
        nlohmann::json part = ByPosition::bounds(bucket, length);
        part["loss"] = losses.mean(bucket);
        by_position.push_back(std::move(part));
    }
    const double mean = sum / static_cast<double>(count);
    const double variance = squares / static_cast<double>(count) - mean * mean;
    return {{"context", length},
            {"documents", plan.perplexity_documents},
            {"tokens", count},
            {"loss", mean},
            {"standard_error", std::sqrt(variance / static_cast<double>(count))},
            {"perplexity", std::exp(mean)},
            {"by_position", std::move(by_position)},
            {"kl", divergence ? divergence->result(length) : nullptr}};
}

}  // namespace atlas::eval
