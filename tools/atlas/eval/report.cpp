#include "eval/report.h"

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <map>

#include "eval/score.h"

namespace atlas::eval {
namespace {

using Json = nlohmann::json;

__attribute__((format(printf, 1, 2))) std::string format(const char* pattern, ...) {
    char buffer[256];
    va_list arguments;
    va_start(arguments, pattern);
    std::vsnprintf(buffer, sizeof buffer, pattern, arguments);
    va_end(arguments);
    return buffer;
}

std::string head(const Json& report, const std::string& first) {
    std::string line = "| " + first + " |";
    std::string rule = "|---|";
    for (const Json& mode : report["modes"]) {
        line += " " + mode["name"].get<std::string>() + " |";
        rule += "--:|";
    }
    return line + "\n" + rule + "\n";
}

/** One row: `cell` makes the text of a mode. */
template <typename Cell>
std::string row(const Json& report, const std::string& first, Cell cell) {
    std::string line = "| " + first + " |";
    for (const Json& mode : report["modes"]) line += " " + cell(mode["result"]) + " |";
    return line + "\n";
}

/** All tasks together, where there are several. */
std::string total_row(const Json& report) {
    if (report["modes"][0]["result"]["retrieval"].size() < 2) return {};
    return row(report, "all", [&](const Json& result) {
        int hits = 0;
        int trials = 0;
        int only_first = 0;
        int only_here = 0;
        for (const Json& r : result["retrieval"]) {
            hits += r["hits"].get<int>();
            trials += static_cast<int>(r["trials"].size());
            only_first += r.value("only_first", 0);
            only_here += r.value("only_here", 0);
        }
        const Interval interval = wilson(hits, trials);
        std::string cell = format("%d/%d = %.0f %% (%.0f–%.0f)", hits, trials, 100.0 * hits / std::max(1, trials),
                                  100 * interval.low, 100 * interval.high);
        if (result["retrieval"][0].contains("only_first")) cell += format(", %d : %d", only_first, only_here);
        return cell;
    });
}

std::string retrieval_table(const Json& report) {
    std::string text = "Retrieval, exact match, 95 % interval:\n\n" + head(report, "task, tokens");
    const Json& rows = report["modes"][0]["result"]["retrieval"];
    for (size_t i = 0; i < rows.size(); ++i) {
        const std::string first =
            rows[i]["task"].get<std::string>() + ", " + std::to_string(rows[i]["length"].get<int>());
        text += row(report, first, [&](const Json& result) {
            const Json& r = result["retrieval"][i];
            return format("%d/%d = %.0f %% (%.0f–%.0f)", r["hits"].get<int>(), static_cast<int>(r["trials"].size()),
                          100 * r["accuracy"].get<double>(), 100 * r["low"].get<double>(),
                          100 * r["high"].get<double>());
        });
        const auto documents = [&](const Json& result) { return result["retrieval"][i]["documents"].get<int>(); };
        if (documents(report["modes"][0]["result"]) < static_cast<int>(rows[i]["trials"].size())) {
            text += row(report, "– documents all right", [&](const Json& result) {
                return format("%d/%d", result["retrieval"][i]["documents_right"].get<int>(), documents(result));
            });
        }
        if (rows[i].contains("nll")) {
            text += row(report, "– −ln of the answers", [&](const Json& result) {
                return format("%.3f", result["retrieval"][i]["nll"].get<double>());
            });
        }
        if (report["modes"].size() > 1) {
            const std::string base = report["modes"][0]["name"];
            text += row(report, "– right only in " + base + " : only here", [&](const Json& result) {
                const Json& r = result["retrieval"][i];
                if (!r.contains("only_first")) return std::string("–");
                return format("%d : %d", r["only_first"].get<int>(), r["only_here"].get<int>());
            });
        }
    }
    return text + total_row(report) + "\n";
}

/** Which keys were read, per phase; nothing where all was exact. */
std::string keys_table(const Json& report) {
    std::string text;
    for (const char* phase : {"reading", "retrieval", "perplexity"}) {
        const auto keys = [&](const Json& result) -> Json {
            return result.contains("keys") ? result["keys"].value(phase, Json()) : Json();
        };
        const auto part = [&](const Json& result, const char* pattern, auto value) {
            const Json k = keys(result);
            return k.is_null() ? std::string("all") : format(pattern, value(k));
        };
        bool any = false;
        for (const Json& mode : report["modes"]) any |= !keys(mode["result"]).is_null();
        if (!any) continue;
        text += row(report, std::string(phase) + ": share of visible keys", [&](const Json& result) {
            return part(result, "%.2f %%", [](const Json& k) { return 100 * k["share"].get<double>(); });
        });
        text += row(report, "– least and most of a layer", [&](const Json& result) -> std::string {
            const Json k = keys(result);
            if (k.is_null()) return "";
            double least = 1;
            double most = 0;
            for (const Json& layer : k["layers"]) {
                if (layer["visible"] <= 0.0) continue;
                const double share = layer["read"].get<double>() / layer["visible"].get<double>();
                least = std::min(least, share);
                most = std::max(most, share);
            }
            return format("%.2f–%.2f %%", 100 * least, 100 * most);
        });
        text += row(report, "– exact calls of all", [&](const Json& result) {
            const Json k = keys(result);
            return k.is_null() ? std::string()
                               : format("%lld of %lld", static_cast<long long>(k["exact_calls"].get<int64_t>()),
                                        static_cast<long long>(k["calls"].get<int64_t>()));
        });
        text += row(report, "– index, MiB", [&](const Json& result) {
            const Json k = keys(result);
            return k.is_null() ? std::string() : format("%.1f", k["index_bytes"].get<double>() / 1048576.0);
        });
    }
    return text.empty() ? text : "Keys read:\n\n" + head(report, "") + text + "\n";
}

std::string speed_table(const Json& report) {
    std::map<int, bool> lengths;
    for (const Json& r : report["modes"][0]["result"]["retrieval"]) lengths[r["length"]] = true;
    const auto speed = [](const Json& result, int length, const char* tokens, const char* seconds) {
        double n = 0;
        double time = 0;
        for (const Json& r : result["retrieval"]) {
            if (r["length"] != length) continue;
            n += r[tokens].get<double>();
            time += r[seconds].get<double>();
        }
        return time > 0 ? n / time : 0;
    };
    std::string text = "Speed, tokens/s:\n\n" + head(report, "what, tokens");
    for (const auto& [length, _] : lengths) {
        text += row(report, "reading " + std::to_string(length), [&](const Json& result) {
            const double rate = speed(result, length, "prompt_tokens", "prompt_seconds");
            return rate > 0 ? format("%.0f", rate) : std::string("–");
        });
    }
    for (const auto& [length, _] : lengths) {
        text += row(report, "writing at " + std::to_string(length), [&](const Json& result) {
            return format("%.1f", speed(result, length, "answer_tokens", "answer_seconds"));
        });
    }
    return text + "\n";
}

std::string perplexity_table(const Json& report) {
    const Json& first = report["modes"][0]["result"]["perplexity"];
    const std::string base = report["modes"][0]["name"];
    const double base_loss = first["loss"];
    std::string text =
        format(
            "Perplexity, %d documents of %d tokens, each read in one go, %d tokens at a time; KL divergence from %s at "
            "%d "
            "positions:\n\n",
            first["documents"].get<int>(), first["context"].get<int>(), report["plan"]["perplexity_batch"].get<int>(),
            base.c_str(), report["plan"]["kl_positions"].get<int>()) +
        head(report, "");
    const auto perplexity = [](const Json& result) -> const Json& { return result["perplexity"]; };
    text += row(report, "perplexity", [&](const Json& result) {
        const Json& p = perplexity(result);
        return format("%.3f ± %.3f", p["perplexity"].get<double>(),
                      p["perplexity"].get<double>() * p["standard_error"].get<double>());
    });
    text += row(report, "ratio to " + base, [&](const Json& result) {
        return format("%.4f", std::exp(perplexity(result)["loss"].get<double>() - base_loss));
    });
    const auto kl = [&](const Json& result, const char* key, const char* pattern, double scale) {
        const Json& k = perplexity(result)["kl"];
        return k.is_null() ? std::string("–") : format(pattern, scale * k[key].get<double>());
    };
    text += row(report, "KL divergence, mean", [&](const Json& result) { return kl(result, "mean", "%.5f", 1); });
    text +=
        row(report, "KL divergence, 99th percentile", [&](const Json& result) { return kl(result, "p99", "%.5f", 1); });
    text += row(report, "same likeliest token",
                [&](const Json& result) { return kl(result, "same_top_token", "%.2f %%", 100); });
    const auto texts = [](const Json& p) { return p.contains("texts") ? p["texts"].size() : 0; };
    for (size_t i = 0; texts(first) > 1 && i < texts(first); ++i) {
        text += row(report, first["texts"][i]["name"].get<std::string>() + ": perplexity, ratio, KL, same token",
                    [&](const Json& result) {
                        const Json& p = perplexity(result)["texts"][i];
                        const double loss = p["loss"];
                        std::string cell = format("%.3f", std::exp(loss));
                        if (p["kl"].is_null()) return cell;
                        return cell +
                               format(", %.4f, %.5f, %.2f %%", std::exp(loss - first["texts"][i]["loss"].get<double>()),
                                      p["kl"]["mean"].get<double>(), 100 * p["kl"]["same_top_token"].get<double>());
                    });
    }
    for (size_t i = 0; i < first["by_position"].size(); ++i) {
        const Json& bucket = first["by_position"][i];
        text += row(report, format("loss at %d–%d", bucket["from"].get<int>(), bucket["to"].get<int>() - 1),
                    [&](const Json& result) {
                        return format("%.4f", perplexity(result)["by_position"][i]["loss"].get<double>());
                    });
    }
    return text + "\n";
}

}  // namespace

void summarize(Json* result) {
    if (!result->contains("retrieval")) return;
    for (Json& r : (*result)["retrieval"]) {
        int hits = 0;
        double found = 0;
        double nll = 0;
        int scored = 0;
        std::map<int, std::pair<int, int>> depths;  // hits, trials
        std::map<int, bool> documents;              // all right
        for (const Json& trial : r["trials"]) {
            const bool hit = trial["found"] == 1.0;
            hits += hit;
            found += trial["found"].get<double>();
            documents.try_emplace(trial["document"], true).first->second &= hit;
            if (trial.contains("nll")) nll += trial["nll"].get<double>(), ++scored;
            if (!trial.contains("depth")) continue;
            depths[trial["depth"]].first += hit;
            ++depths[trial["depth"]].second;
        }
        const int n = static_cast<int>(r["trials"].size());
        const Interval interval = wilson(hits, n);
        r["hits"] = hits;
        r["accuracy"] = n > 0 ? static_cast<double>(hits) / n : 0.0;
        r["low"] = interval.low;
        r["high"] = interval.high;
        r["share_found"] = n > 0 ? found / n : 0.0;
        Json by_depth = Json::array();
        for (const auto& [depth, counts] : depths)
            by_depth.push_back({{"depth", depth}, {"hits", counts.first}, {"trials", counts.second}});
        r["by_depth"] = std::move(by_depth);
        if (scored > 0) r["nll"] = nll / scored;
        r["documents"] = documents.size();
        r["documents_right"] =
            std::count_if(documents.begin(), documents.end(), [](const auto& d) { return d.second; });
    }
}

void compare(Json* report) {
    Json& modes = (*report)["modes"];
    for (size_t m = 1; m < modes.size(); ++m) {
        if (!modes[m]["result"].contains("retrieval")) continue;
        Json& rows = modes[m]["result"]["retrieval"];
        for (size_t i = 0; i < rows.size(); ++i) {
            const Json& trials = rows[i]["trials"];
            const Json& others = modes[0]["result"]["retrieval"][i]["trials"];
            int only_first = 0;
            int only_here = 0;
            for (size_t t = 0; t < trials.size(); ++t) {
                const bool here = trials[t]["found"] == 1.0;
                const bool first = others[t]["found"] == 1.0;
                only_first += first && !here;
                only_here += here && !first;
            }
            rows[i]["only_first"] = only_first;
            rows[i]["only_here"] = only_here;
        }
    }
}

std::string tables(const Json& report) {
    std::string text;
    const Json& first = report["modes"][0]["result"];
    if (first.contains("retrieval")) text += retrieval_table(report) + speed_table(report);
    if (first.contains("perplexity")) text += perplexity_table(report);
    text += keys_table(report);
    text += head(report, "") + row(report, "peak memory, MiB", [](const Json& result) {
                return format("%.0f", result["peak_memory_mib"].get<double>());
            });
    return text;
}

}  // namespace atlas::eval
