#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <stdexcept>

#include "eval/haystack.h"
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

/** How far apart two modes' distributions were. */
struct Divergences {
    std::vector<double> all;
    int64_t same_best = 0;
    ByPosition by_position, same_by_position;

    void add(int position, double divergence, bool same) {
        all.push_back(divergence);
        same_best += same ? 1 : 0;
        by_position.add(position, divergence);
        same_by_position.add(position, same ? 1 : 0);
    }

    nlohmann::json result(int length) {
        if (all.empty()) return nullptr;
        const auto n = static_cast<double>(all.size());
        double sum = 0;
        double squares = 0;
        for (const double divergence : all) {
            sum += divergence;
            squares += divergence * divergence;
        }
        const double variance = std::max(0.0, squares / n - sum / n * (sum / n));
        std::sort(all.begin(), all.end());
        nlohmann::json parts = nlohmann::json::array();
        for (size_t bucket = 0; bucket < by_position.sums.size(); ++bucket) {
            if (by_position.counts[bucket] == 0) continue;
            nlohmann::json part = ByPosition::bounds(bucket, length);
            part["positions"] = by_position.counts[bucket];
            part["mean"] = by_position.mean(bucket);
            part["same_top_token"] = same_by_position.mean(bucket);
            parts.push_back(std::move(part));
        }
        return {{"positions", all.size()},
                {"by_position", std::move(parts)},
                {"mean", sum / n},
                {"error", std::sqrt(variance / n)},
                {"p99", all[static_cast<size_t>(0.99 * (n - 1))]},
                {"same_top_token", static_cast<double>(same_best) / n}};
    }
};

/** The first mode's distributions, which lie in a file in the order in which they are met. */
class Comparison {
public:
    Comparison(const std::string& path, bool write, int vocabulary)
        : path_(path),
          write_(write),
          file_(open_base(path, write)),
          mine_(static_cast<size_t>(vocabulary)),
          base_(mine_.size()) {}

    /** Writes the distribution or compares it; `use(divergence, same likeliest token)` in the second case. */
    template <typename Use>
    void add(const float* logits, double log_sum, Use use) {
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
        const int n = static_cast<int>(mine_.size());
        use(divergence, best_of(mine_.data(), n) == best_of(base_.data(), n));
    }

    void finish() {
        if (write_ && std::fflush(file_.get()) != 0) throw std::runtime_error(path_ + ": " + std::strerror(errno));
    }

private:
    std::string path_;
    bool write_;
    File file_;
    std::vector<float> mine_, base_;
};

/** Losses and divergences of a text, or of all. */
struct Tally {
    ByPosition losses;
    double sum = 0, squares = 0;
    int64_t count = 0;
    Divergences divergences;

    void add(int position, double loss) {
        losses.add(position, loss);
        sum += loss;
        squares += loss * loss;
        ++count;
    }

    nlohmann::json result(const Plan& plan, int documents) {
        nlohmann::json by_position = nlohmann::json::array();
        for (size_t bucket = 0; bucket < losses.sums.size(); ++bucket) {
            if (losses.counts[bucket] == 0) continue;
            nlohmann::json part = ByPosition::bounds(bucket, plan.perplexity_context);
            part["loss"] = losses.mean(bucket);
            by_position.push_back(std::move(part));
        }
        const double mean = sum / static_cast<double>(count);
        const double variance = squares / static_cast<double>(count) - mean * mean;
        return {{"context", plan.perplexity_context},
                {"documents", documents},
                {"tokens", count},
                {"loss", mean},
                {"standard_error", std::sqrt(std::max(0.0, variance) / static_cast<double>(count))},
                {"perplexity", std::exp(mean)},
                {"by_position", std::move(by_position)},
                {"kl", divergences.result(plan.perplexity_context)}};
    }
};

/** The tokens at the end of a document that are scored. */
int tail_of(const Plan& plan) {
    return plan.perplexity_tail > 0 ? std::min(plan.perplexity_tail, plan.perplexity_context) : plan.perplexity_context;
}

std::vector<Tokens> documents_of(const Session& session, const Plan& plan, const NamedText& text) {
    const Tokens tokens = session.tokenize(read_texts(text.files));
    const Tokens beginning = session.beginning();
    const int length = plan.perplexity_context;
    const int body = length - static_cast<int>(beginning.size());
    const int64_t needed = static_cast<int64_t>(body) * plan.perplexity_documents;
    if (static_cast<int64_t>(tokens.size()) < needed) {
        throw std::runtime_error(text.name + " has " + std::to_string(tokens.size()) + " tokens; " +
                                 std::to_string(plan.perplexity_documents) + " documents of " + std::to_string(length) +
                                 " need " + std::to_string(needed));
    }
    std::vector<Tokens> documents;
    const size_t spare = (tokens.size() - static_cast<size_t>(needed)) / static_cast<size_t>(plan.perplexity_documents);
    for (int document = 0; document < plan.perplexity_documents; ++document) {
        const auto at = tokens.begin() + static_cast<ptrdiff_t>(document * (static_cast<size_t>(body) + spare));
        documents.push_back(beginning);
        documents.back().insert(documents.back().end(), at, at + body);
    }
    return documents;
}

}  // namespace

double log_sum_exp(const float* logits, int n) {
    const float top = *std::max_element(logits, logits + n);
    double sum = 0;
    for (int i = 0; i < n; ++i) sum += std::exp(static_cast<double>(logits[i] - top));
    return top + std::log(sum);
}

void each_beginning(const Session& session, const Plan& plan, const std::function<void(const Tokens&)>& use) {
    const int before = plan.perplexity_context - tail_of(plan);
    if (before <= 0) return;
    for (const NamedText& text : perplexity_texts(plan))
        for (const Tokens& document : documents_of(session, plan, text))
            use({document.begin(), document.begin() + before});
}

nlohmann::json measure_perplexity(Session& session, Reader& reader, const Plan& plan, const std::string& base,
                                  bool write_base, const Progress& progress) {
    const int vocabulary = session.vocabulary();
    const int length = plan.perplexity_context;
    const int tail = tail_of(plan);
    const std::vector<NamedText> texts = perplexity_texts(plan);
    std::optional<Comparison> comparison;
    if (!base.empty()) comparison.emplace(base, write_base, vocabulary);
    const int64_t scored = static_cast<int64_t>(tail) * plan.perplexity_documents * static_cast<int64_t>(texts.size());
    const int64_t stride = std::max<int64_t>(1, scored / std::max(1, plan.kl_positions));
    Tally all;
    nlohmann::json by_text = nlohmann::json::array();
    for (const NamedText& text : texts) {
        Tally tally;
        for (const Tokens& document : documents_of(session, plan, text)) {
            session.clear();
            if (tail < length) reader.read({document.begin(), document.begin() + (length - tail)});
            for (int begin = length - tail; begin < length; begin += plan.perplexity_batch) {
                const int n = std::min(plan.perplexity_batch, length - begin);
                session.decode(document.data() + begin, n, true);
                for (int i = 0; i < n && begin + i + 1 < length; ++i) {
                    const float* logits = session.logits(i);
                    const double log_sum = log_sum_exp(logits, vocabulary);
                    const int position = begin + i + 1;
                    const double loss = log_sum - logits[document[static_cast<size_t>(position)]];
                    tally.add(position, loss);
                    all.add(position, loss);
                    if ((all.count - 1) % stride != 0 || !comparison) continue;
                    comparison->add(logits, log_sum, [&](double divergence, bool same) {
                        tally.divergences.add(position, divergence, same);
                        all.divergences.add(position, divergence, same);
                    });
                }
                if (tail == length) progress("perplexity", n);
            }
            if (tail < length) progress("perplexity", length);
        }
        nlohmann::json result = tally.result(plan, plan.perplexity_documents);
        result["name"] = text.name;
        by_text.push_back(std::move(result));
    }
    if (comparison) comparison->finish();
    nlohmann::json result = all.result(plan, plan.perplexity_documents * static_cast<int>(texts.size()));
    result["texts"] = std::move(by_text);
    return result;
}

}  // namespace atlas::eval
