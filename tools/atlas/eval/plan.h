#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace atlas::eval {

/** A way to run the model: plain llama.cpp, or Atlas with some variables set. */
struct Mode {
    std::string name;  ///< as the user wrote it
    bool with_atlas = false;
    std::vector<std::pair<std::string, std::string>> environment;
    std::string reader;  ///< the mode that reads the documents for it: what follows @; empty: itself

    /** The model computes what llama.cpp computes: what it read does not depend on the version of Atlas. */
    bool is_exact() const;
};

/** How documents say and ask: the short forms that models/train/FORMS.md lists, RULER's sentences, or several of our own for each fact. */
enum class Wording { kPlain, kRuler, kVaried };

/** A text for perplexity, measured by itself. */
struct NamedText {
    std::string name;
    std::vector<std::string> files;
};

/** Everything that is measured. The same plan and texts give the same documents on every machine. */
struct Plan {
    std::string model;               ///< GGUF file
    std::vector<std::string> texts;  ///< haystack and perplexity text, joined in this order
    std::vector<std::string> tasks;  ///< empty: no retrieval
    std::vector<int> lengths;        ///< tokens of prompt and answer together
    std::vector<int> depths;         ///< percent of the document before the needle of `single`
    int samples = 10;                ///< documents per task and length, spread over the depths
    int distractors = 8;             ///< other facts of the same form in `multi-key`
    int questions = 1;               ///< most questions asked behind one document, each alone
    uint64_t seed = 2026;            //
    Wording wording = Wording::kPlain;
    bool chat = false;  ///< documents and questions inside the model's chat template
    std::string
        states;  ///< folder of what the model has read, kept for the next time; empty: every mode reads by itself
    std::vector<NamedText> perplexity_texts;  ///< empty: `texts` under the name "text"
    int perplexity_tail = 0;                  ///< only as many tokens at the end of a document are scored; 0: all
    int perplexity_context = 0;               ///< tokens per document; 0: no perplexity
    int perplexity_documents = 4;             //
    int perplexity_batch = 512;               ///< tokens read at a time
    int kl_positions = 1024;           ///< positions whose whole distributions are compared with the first mode's
    int threads = 0;                   ///< 0: one per core
    std::string cache_type_k = "f16";  //
    std::string cache_type_v = "f16";  //
    bool beyond_training = false;      ///< allow lengths above what the model was trained for
    bool repeat_text = false;          ///< start the text again where a document needs more
};

/**
 * `host`, `exact`, `window`, `sparse`, `memory`, each with `:VARIABLE=VALUE` and more of them behind `+`, and `@` with another such mode that
 * reads the documents. Returns an error text, empty if fine.
 */
std::string parse_mode(const std::string& text, Mode* out);

/** Names that --tasks accepts. */
const std::vector<std::string>& task_names();

/** The texts that perplexity is measured on. */
std::vector<NamedText> perplexity_texts(const Plan& plan);

// Every field: the plan travels to the process of each mode, and into the report.
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(NamedText, name, files)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Plan, model, texts, tasks, lengths, depths, samples, distractors, questions, seed,
                                   wording, chat, states, perplexity_texts, perplexity_tail, perplexity_context,
                                   perplexity_documents, perplexity_batch, kl_positions, threads, cache_type_k,
                                   cache_type_v, beyond_training, repeat_text)

}  // namespace atlas::eval
