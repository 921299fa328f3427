#include "stats_file.h"

#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

namespace atlas::tool {
namespace {

using Json = nlohmann::ordered_json;

/** Of all layers together. */
struct Attention {
    size_t layers = 0;
    uint64_t calls = 0, exact = 0;
    // Of calls that were not exact.
    double visible = 0, read = 0;

    explicit Attention(const Json& stats) {
        for (const Json& layer : stats.at("layers")) {
            ++layers;
            calls += layer.at("calls").get<uint64_t>();
            exact += layer.at("exact_calls").get<uint64_t>();
            visible += layer.at("visible_keys").get<double>();
            read += layer.at("exact_keys").get<double>();
        }
    }
    /** Of the visible keys. */
    double share_read() const { return visible > 0 ? read / visible : 1.0; }
};

void print_json(const Json& stats) {
    const Attention all(stats);
    Json shown{
        {"attention",
         {{"layers", all.layers}, {"calls", all.calls}, {"exact_calls", all.exact}, {"share_read", all.share_read()}}}};
    shown["absent"] = stats.at("absent");
    shown.update(stats);
    std::printf("%s\n", shown.dump(2).c_str());
}

void print(const Json& stats) {
    const Attention all(stats);
    std::printf("attention    %zu layers, %llu calls, of which %llu exact; %.1f %% of the visible keys were read%s\n",
                all.layers, static_cast<unsigned long long>(all.calls), static_cast<unsigned long long>(all.exact),
                100.0 * all.share_read(), all.exact < all.calls ? " by the others" : "");
    if (stats.at("absent").empty()) std::printf("absent       nothing that was asked for\n");
    for (const Json& one : stats.at("absent")) {
        std::printf("absent       %s: %s; %llu contexts, %llu calls\n", one.at("reason").get<std::string>().c_str(),
                    one.at("text").get<std::string>().c_str(),
                    static_cast<unsigned long long>(one.at("contexts").get<uint64_t>()),
                    static_cast<unsigned long long>(one.at("calls").get<uint64_t>()));
    }
    // Kept as they are: what they mean is said in docs/guide.md.
    for (const char* part : {"kv", "weights", "formats", "ram"}) {
        if (stats.contains(part)) std::printf("%-12s %s\n", part, stats[part].dump().c_str());
    }
}

}  // namespace

int print_stats_file(const std::string& path, bool json) {
    std::ifstream file(path);
    if (!file) {
        std::fprintf(stderr, "atlas: %s cannot be read\n", path.c_str());
        return 1;
    }
    try {
        const Json stats = Json::parse(file);
        json ? print_json(stats) : print(stats);
        return 0;
    } catch (const Json::exception&) {
        std::fprintf(stderr, "atlas: %s is no file of statistics that ATLAS_STATS named\n", path.c_str());
        return 1;
    }
}

}  // namespace atlas::tool
