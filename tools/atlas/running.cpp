#include "running.h"

#include <sys/types.h>
#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>

#include "model_facts.h"

namespace atlas::tool {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kSeen = "atlas_info{kernels=\"";

struct Scrape {
    std::string address;
    std::string text;
};

/** Of the first of its addresses that answers as Atlas does. */
Scrape scrape(int pid) {
    for (const std::string& address : listening_addresses(pid)) {
        std::string text = http_get(address, "/metrics");
        if (text.find(kSeen) != std::string::npos) return {address, std::move(text)};
    }
    return {};
}

bool has_atlas(int pid) {
    std::ifstream maps("/proc/" + std::to_string(pid) + "/maps");
    for (std::string line; std::getline(maps, line);) {
        if (line.find("libggml-atlas.so") != std::string::npos) return true;
    }
    return false;
}

/** Why there are no metrics. */
std::string absence(int pid) {
    const std::string process = "process " + std::to_string(pid);
    if (pid <= 0 || (kill(pid, 0) != 0 && errno == ESRCH)) return process + " is not there";
    std::error_code error;
    if (std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/fd", error); error)
        return process + " cannot be looked into: " + error.message();
    if (!has_atlas(pid)) return process + " has no Atlas loaded";
    return process + " has Atlas and no metrics: start it with ATLAS_METRICS=127.0.0.1:0, or atlas … --atlas-metrics 0";
}

class Samples {
public:
    explicit Samples(const std::string& text) : values_(parse_samples(text)) {}
    bool has(const std::string& name) const { return values_.count("atlas_" + name) != 0; }
    double operator()(const std::string& name) const {
        const auto found = values_.find("atlas_" + name);
        return found == values_.end() ? 0.0 : found->second;
    }
    /** With one label. */
    double operator()(const std::string& name, const std::string& label, const std::string& value) const {
        return (*this)(name + "{" + label + "=\"" + value + "\"}");
    }
    const std::map<std::string, double>& all() const { return values_; }

private:
    const std::map<std::string, double> values_;
};

uint64_t whole(double value) { return value > 0 ? static_cast<uint64_t>(value) : 0; }

/** Every module, its calls, its memory, and, of those that stand for an operation of the host's, its measured gain. */
Json modules_of(const Samples& of) {
    Json modules = Json::array();
    const auto add = [&](const char* name, double calls, double bytes) {
        Json one{{"name", name}, {"calls", whole(calls)}, {"bytes", whole(bytes)}};
        if (of.has(std::string("module_speedup{module=\"") + name + "\"}")) {
            one["speedup"] = of("module_speedup", "module", name);
            one["samples"] = whole(of("speedup_samples_total", "module", name));
        }
        modules.push_back(one);
    };
    add("exact-attention", of("attention_calls_total", "kind", "exact"), of("memory_bytes", "kind", "scratch"));
    add("sparse-attention", of("attention_calls_total", "kind", "sparse"), of("memory_bytes", "kind", "index"));
    add("atlas-memory", of("memories"), of("memory_bytes", "kind", "memories"));
    add("tiered-kv", of("kv_pages_total", "from", "disk") + of("kv_pages_total", "from", "memory"),
        of("kv_disk_bytes"));
    const double sparse = of("sparse_products_total");
    add("weights", of("products_total", "by", "atlas") - sparse, 0);
    add("activation-sparsity", sparse, 0);
    add("hybrid-weights", of("rounded_products_total"), of("format_bytes"));
    add("streaming", of("streamed_products_total"),
        of("weights_bytes", "kind", "pinned") + of("weights_bytes", "kind", "experts") +
            of("weights_bytes", "kind", "ring"));
    return modules;
}

Json facts_of(int pid, const Scrape& scraped) {
    const Samples of(scraped.text);
    const size_t begin = scraped.text.find(kSeen) + std::string_view(kSeen).size();
    Json facts{{"pid", pid},
               {"address", scraped.address},
               {"kernels", scraped.text.substr(begin, scraped.text.find('"', begin) - begin)},
               {"contexts", whole(of("contexts"))},
               {"graphs", whole(of("graphs_total"))},
               {"compute_seconds", of("compute_seconds_total")},
               {"nodes",
                {{"atlas", whole(of("nodes_total", "by", "atlas"))}, {"host", whole(of("nodes_total", "by", "host"))}}},
               {"speedup", of("speedup")},
               {"modules", modules_of(of)},
               {"visible_keys", of("visible_keys_total")},
               {"read_keys", of("read_keys_total")}};
    Json memory{{"limit", whole(of("pool_limit_bytes"))}};
    for (const char* kind : {"kv", "index", "memories", "scratch"})
        memory[kind] = whole(of("memory_bytes", "kind", kind));
    facts["memory"] = memory;
    if (of.has("ram_bytes{share=\"kv\"}")) {
        Json& shares = facts["ram"];
        for (const char* share : {"weights", "kv"})
            shares[share] = {{"bytes", whole(of("ram_bytes", "share", share))},
                             {"needed", whole(of("ram_needed_bytes", "share", share))}};
    }
    if (of.has("kv_disk_bytes"))
        facts["disk"] = {{"bytes", whole(of("kv_disk_bytes"))},
                         {"read", whole(of("kv_disk_transferred_bytes_total", "direction", "read"))},
                         {"written", whole(of("kv_disk_transferred_bytes_total", "direction", "written"))},
                         {"pages_from_memory", whole(of("kv_pages_total", "from", "memory"))},
                         {"pages_from_disk", whole(of("kv_pages_total", "from", "disk"))}};
    Json absent = Json::object();
    const std::string prefix = "atlas_absent_calls{reason=\"";
    for (const auto& [name, value] : of.all()) {
        if (name.starts_with(prefix) && value > 0)
            absent[name.substr(prefix.size(), name.size() - prefix.size() - 2)] = whole(value);
    }
    facts["absent_calls"] = absent;
    return facts;
}

std::string bytes_text(const Json& bytes) { return size_text(bytes.get<uint64_t>()); }

void print(const Json& facts) {
    const auto number = [](const Json& value) { return std::to_string(value.get<uint64_t>()); };
    std::printf("process      %d, metrics at http://%s/metrics\nkernels      %s\n", facts["pid"].get<int>(),
                facts["address"].get<std::string>().c_str(), facts["kernels"].get<std::string>().c_str());
    std::printf("work         %s contexts, %s graphs in %.1f s; of their nodes %s by Atlas, %s by the host\n",
                number(facts["contexts"]).c_str(), number(facts["graphs"]).c_str(),
                facts["compute_seconds"].get<double>(), number(facts["nodes"]["atlas"]).c_str(),
                number(facts["nodes"]["host"]).c_str());
    std::printf("speed-up     %.2f, of the operations that were timed beside the host's\n",
                facts["speedup"].get<double>());
    for (const Json& one : facts["modules"]) {
        const bool memories = one["name"] == "atlas-memory";
        std::printf("module       %-17s %10s %s, %s", one["name"].get<std::string>().c_str(),
                    number(one["calls"]).c_str(),
                    memories                     ? "memories"
                    : one["name"] == "tiered-kv" ? "pages"
                                                 : "calls",
                    bytes_text(one["bytes"]).c_str());
        if (one.contains("speedup"))
            std::printf(", %.2f times as fast as the host over %s samples", one["speedup"].get<double>(),
                        number(one["samples"]).c_str());
        std::printf("\n");
    }
    const Json& memory = facts["memory"];
    std::printf("memory       KV %s, index %s, memories %s, scratch %s; limit %s\n", bytes_text(memory["kv"]).c_str(),
                bytes_text(memory["index"]).c_str(), bytes_text(memory["memories"]).c_str(),
                bytes_text(memory["scratch"]).c_str(),
                memory["limit"] == 0 ? "none" : bytes_text(memory["limit"]).c_str());
    if (facts.contains("ram")) {
        const Json& weights = facts["ram"]["weights"];
        const Json& kv = facts["ram"]["kv"];
        const auto share = [](const Json& one) {
            return bytes_text(std::min(one["bytes"], one["needed"])) + " of " + bytes_text(one["needed"]);
        };
        std::printf("ATLAS_RAM    %s: weights %s, KV cache %s\n",
                    size_text(weights["bytes"].get<uint64_t>() + kv["bytes"].get<uint64_t>()).c_str(),
                    share(weights).c_str(), share(kv).c_str());
    }
    if (facts.contains("disk")) {
        const Json& disk = facts["disk"];
        std::printf("disk         %s there, %s read, %s written; pages asked for: %s in memory, %s on disk\n",
                    bytes_text(disk["bytes"]).c_str(), bytes_text(disk["read"]).c_str(),
                    bytes_text(disk["written"]).c_str(), number(disk["pages_from_memory"]).c_str(),
                    number(disk["pages_from_disk"]).c_str());
    }
    if (const double visible = facts["visible_keys"].get<double>(); visible > 0)
        std::printf("keys         %.1f %% of the visible ones were read where something was estimated\n",
                    100.0 * facts["read_keys"].get<double>() / visible);
    for (const auto& [reason, calls] : facts["absent_calls"].items())
        std::printf("absent       %s: %s calls of attention\n", reason.c_str(), number(calls).c_str());
}

}  // namespace

int print_running(int pid, bool json) {
    const Scrape scraped = scrape(pid);
    if (scraped.text.empty()) {
        std::fprintf(stderr, "atlas: %s\n", absence(pid).c_str());
        return 1;
    }
    const Json facts = facts_of(pid, scraped);
    if (json) {
        std::printf("%s\n", facts.dump(2).c_str());
    } else {
        print(facts);
    }
    return 0;
}

}  // namespace atlas::tool
