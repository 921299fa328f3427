#include "runtime/metrics.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <initializer_list>
#include <utility>

#include "attention/absence.h"
#include "kernels/description.h"
#include "kernels/kernel_table.h"
#include "runtime/runtime.h"

namespace atlas::runtime {
namespace {

/** Families of samples, one after the other. */
class Text {
public:
    struct Sample {
        std::string labels;  ///< kind="kv"; may be empty
        double value;
    };

    void add(const char* name, const char* type, const char* help, std::initializer_list<Sample> samples) {
        text_ += std::string("# HELP atlas_") + name + " " + help + "\n# TYPE atlas_" + name + " " + type + "\n";
        for (const Sample& sample : samples) one(name, sample);
    }
    void one(const char* name, const Sample& sample) {
        char number[40];
        std::snprintf(number, sizeof number, " %.17g\n", sample.value);
        text_ += std::string("atlas_") + name + (sample.labels.empty() ? "" : "{" + sample.labels + "}") + number;
    }
    std::string take() { return std::move(text_); }

private:
    std::string text_;
};

double of(uint64_t number) { return static_cast<double>(number); }
double of(int64_t number) { return static_cast<double>(std::max<int64_t>(number, 0)); }

void add_work(const Work& work, Text* text) {
    text->add("graphs_total", "counter", "Graphs, or parts of graphs, that were computed.", {{"", of(work.graphs)}});
    text->add("compute_seconds_total", "counter", "Time of these graphs.", {{"", work.compute_seconds}});
    text->add("nodes_total", "counter", "Nodes of these graphs, by who computed them.",
              {{"by=\"atlas\"", of(work.own_nodes)}, {"by=\"host\"", of(work.host_nodes)}});
    text->add("attention_calls_total", "counter",
              "Attention: layers times batches. host: while exact-attention was not loaded.",
              {{"kind=\"exact\"", of(work.attention_calls - work.estimated_calls)},
               {"kind=\"sparse\"", of(work.estimated_calls)},
               {"kind=\"host\"", of(work.attention_by_host)}});
    text->add("attention_seconds_total", "counter", "Time of Atlas's attention.", {{"", work.attention_seconds}});
    text->add("visible_keys_total", "counter",
              "Keys that tiles of queries saw, summed over KV heads, where something was estimated.",
              {{"", work.visible_keys}});
    text->add("read_keys_total", "counter", "Those of them that were read.", {{"", work.exact_keys}});
    text->add("products_total", "counter", "Products with weights. host: while the module weights was not loaded.",
              {{"by=\"atlas\"", of(work.products)}, {"by=\"host\"", of(work.products_by_host)}});
    text->add("sparse_products_total", "counter", "Of Atlas's products: with inputs left out (ATLAS_SPARSITY).",
              {{"", of(work.sparse_products)}});
    text->add("sparse_weight_bytes_total", "counter", "Of the weights of these.",
              {{"part=\"read\"", of(work.sparse_bytes_read)},
               {"part=\"left_out\"", of(work.sparse_bytes - work.sparse_bytes_read)}});
    text->add("rounded_products_total", "counter", "Of Atlas's: with weights that were rounded (ATLAS_WEIGHT_FORMAT).",
              {{"", of(work.rounded_products)}});
    text->add("streamed_products_total", "counter",
              "Of Atlas's: with weights that are not read where they are mapped (ATLAS_WEIGHTS_RAM).",
              {{"", of(work.streamed_products)}});
    text->add("memory_seconds_total", "counter", "Time of test-time memories, of attention's.",
              {{"", work.memory_seconds}});
}

void add_speed(const Work& work, Text* text) {
    text->add("speedup", "gauge",
              "Time of the host's operations on the same tensors, to Atlas's; 1 before the first sample.",
              {{"", work.speedup()}});
    text->add("module_speedup", "gauge", "The same of one module.", {});
    for (size_t i = 0; i < kModules; ++i) {
        const auto module = static_cast<Module>(i);
        if (replaces_operation(module))
            text->one("module_speedup", {std::string("module=\"") + name_of(module) + "\"", work.measured[i].gain()});
    }
    text->add("speedup_samples_total", "counter", "Operations that were timed beside the host's.", {});
    for (size_t i = 0; i < kModules; ++i) {
        const auto module = static_cast<Module>(i);
        if (replaces_operation(module))
            text->one("speedup_samples_total",
                      {std::string("module=\"") + name_of(module) + "\"", of(work.measured[i].samples)});
    }
    text->add("sampling_seconds_total", "counter", "What these samples took.", {{"", work.sampling_seconds}});
}

void add_memory(Runtime& runtime, const Held& held, Text* text) {
    const uint64_t used = runtime.kv_budget().in_use();
    const int64_t kv = static_cast<int64_t>(used) - held.index_bytes - held.memory_bytes;
    text->add("contexts", "gauge", "Contexts that exist.", {{"", of(held.contexts)}});
    text->add("memory_bytes", "gauge", "Memory in use. All but scratch counts in the pool.",
              {{"kind=\"kv\"", of(kv)},
               {"kind=\"index\"", of(held.index_bytes)},
               {"kind=\"memories\"", of(held.memory_bytes)},
               {"kind=\"scratch\"", of(held.scratch_bytes)}});
    text->add("pool_limit_bytes", "gauge",
              "What the pool may take (ATLAS_KV_RAM, a share of ATLAS_RAM, or a runtime's pool); 0: no limit.",
              {{"", of(runtime.kv_budget().limit())}});
    text->add("memories", "gauge", "Test-time memories: one per layer, KV head and sequence.",
              {{"", of(held.memories)}});
}

void add_tiers(const kv::Pager& pager, Text* text) {
    const kv::PagerStats stats = pager.stats();
    text->add("kv_disk_bytes", "gauge", "KV pages on disk.", {{"", of(stats.disk.in_use)}});
    text->add(
        "kv_disk_transferred_bytes_total", "counter", "Bytes between memory and disk.",
        {{"direction=\"read\"", of(stats.disk.read_bytes)}, {"direction=\"written\"", of(stats.disk.written_bytes)}});
    text->add("kv_pages_total", "counter", "Pages that were asked for, by where they were.",
              {{"from=\"memory\"", of(stats.hits)}, {"from=\"disk\"", of(stats.misses)}});
    text->add("kv_evictions_total", "counter", "Pages that left memory.", {{"", of(stats.evictions)}});
    text->add("kv_disk_errors_total", "counter", "Transfers that failed and pages that were damaged.",
              {{"kind=\"read\"", of(stats.disk.read_errors)},
               {"kind=\"write\"", of(stats.disk.write_errors)},
               {"kind=\"corrupt\"", of(stats.disk.corrupt)}});
    text->add("kv_disk_wait_seconds_total", "counter", "Time that was waited for the disk.",
              {{"", stats.disk.wait_seconds}});
}

void add_weights(const weights::StreamerStats& stats, Text* text) {
    text->add("weights_bytes", "gauge", "Memory of streamed weights.",
              {{"kind=\"pinned\"", of(stats.pinned_bytes)},
               {"kind=\"experts\"", of(stats.experts.bytes)},
               {"kind=\"ring\"", of(stats.ring_bytes)}});
    text->add("weights_read_bytes_total", "counter", "Bytes of weights that were read from the model's file.",
              {{"", of(stats.reader.read_bytes)}});
    text->add("weights_experts_total", "counter", "Matrices of experts that were wanted, by where they were.",
              {{"from=\"memory\"", of(stats.experts.hits)}, {"from=\"disk\"", of(stats.experts.misses)}});
    text->add("weights_wait_seconds_total", "counter", "Time that threads waited for weights, summed.",
              {{"", stats.reader.wait_seconds}});
    text->add("weights_read_errors_total", "counter", "Reads that failed twice.", {{"", of(stats.reader.failures)}});
}

void add_formats(const weights::FormatStats& stats, Text* text) {
    text->add("format_matrices_total", "counter",
              "Matrices of weights that were rounded, or read as they were rounded before.",
              {{"from=\"rounded\"", of(stats.matrices - stats.cached)}, {"from=\"cache\"", of(stats.cached)}});
    text->add("format_bytes", "gauge", "What stands for them and is in use.", {{"", of(stats.held_bytes)}});
    text->add("format_bits", "gauge", "Bits per weight of all of them, scales included.", {{"", stats.bits_each()}});
    text->add("format_sqnr_db", "gauge", "Signal to noise of rows looked at; 0 before the first.",
              {{"", stats.sqnr_db()}});
    text->add("format_seconds_total", "counter", "Time that rounding took, or reading.", {{"", stats.seconds}});
}

void add_shares(const RamShares::State& now, Text* text) {
    text->add("ram_bytes", "gauge", "How ATLAS_RAM is split now.",
              {{"share=\"weights\"", of(now.split.weights)}, {"share=\"kv\"", of(now.split.kv)}});
    text->add("ram_needed_bytes", "gauge", "What models have, and KV caches could come to hold.",
              {{"share=\"weights\"", of(now.needs.weights)}, {"share=\"kv\"", of(now.needs.kv)}});
}

/** What was asked for and took no part, by reason. */
void add_absences(const AbsenceCounts& absences, Text* text) {
    const auto label = [](size_t why) {
        return std::string("reason=\"") + attention::name(static_cast<attention::Absence>(why)) + "\"";
    };
    const auto none = static_cast<size_t>(attention::Absence::kNone);
    text->add("absent_contexts", "gauge",
              "Contexts in which sparse attention or memory was asked for and took no part, at times or always.", {});
    for (size_t i = 0; i < absences.of.size(); ++i) {
        if (i != none) text->one("absent_contexts", {label(i), of(absences.of[i].contexts)});
    }
    text->add("absent_calls", "gauge", "Calls of attention in which they did not.", {});
    for (size_t i = 0; i < absences.of.size(); ++i) {
        if (i != none) text->one("absent_calls", {label(i), of(absences.of[i].calls)});
    }
}

}  // namespace

std::string metrics_text(Runtime& runtime) {
    Text text;
    const Work work = runtime.activity().work();
    text.add("info", "gauge", "What runs.", {{std::string("kernels=\"") + kernels::kernel_description() + "\"", 1.0}});
    add_work(work, &text);
    add_speed(work, &text);
    add_memory(runtime, runtime.activity().held(), &text);
    add_absences(runtime.absences(), &text);
    if (const kv::Pager* pager = runtime.pager()) add_tiers(*pager, &text);
    if (const weights::Streamer* streamer = runtime.streamer()) add_weights(streamer->stats(), &text);
    if (const weights::FormatStore* formats = runtime.formats()) add_formats(formats->stats(), &text);
    if (const RamShares* shares = runtime.ram_shares()) add_shares(shares->state(), &text);
    return text.take();
}

}  // namespace atlas::runtime
