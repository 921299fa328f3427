// Writes what attention is given in a few KV heads of a real model while it answers questions about a document (slice.h). Computed by
// llama.cpp alone: no plug-in is loaded.
#include <ggml.h>
#include <llama.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "slice.h"

namespace {

using namespace atlas::quality;

constexpr int kDocument = 3456;  // tokens, so that four heads stay below 2 MB
constexpr size_t kHeads = 4;     // of which the last is one that looks elsewhere

struct Fact {
    const char* sentence;
    const char* question;
    const char* answer;  // as far as the value
};
// Invented, and used nowhere else.
constexpr std::array<Fact, 12> kFacts = {{
    {"The access code of Ingrid Halvorsen is 48213.", "What is the access code of Ingrid Halvorsen?",
     "The access code of Ingrid Halvorsen is"},
    {"Locker 17 belongs to Tomasz Wilk.", "To whom does locker 17 belong?", "Locker 17 belongs to"},
    {"The spare key lies under the blue kettle.", "Where does the spare key lie?", "The spare key lies under the"},
    {"Nadia Rahimi was born in the town of Felsberg.", "In which town was Nadia Rahimi born?",
     "Nadia Rahimi was born in the town of"},
    {"The ferry to Skarnes leaves at 06:40.", "When does the ferry to Skarnes leave?",
     "The ferry to Skarnes leaves at"},
    {"The archive's password is copper-lantern.", "What is the archive's password?", "The archive's password is"},
    {"Doctor Okonkwo keeps eleven parrots.", "How many parrots does Doctor Okonkwo keep?", "Doctor Okonkwo keeps"},
    {"The bridge at Montfalcon was built by Edda Lorenz.", "Who built the bridge at Montfalcon?",
     "The bridge at Montfalcon was built by"},
    {"Invoice 9031 amounts to 775 crowns.", "What does invoice 9031 amount to?", "Invoice 9031 amounts to"},
    {"The choir rehearses on Thursdays in the old mill.", "Where does the choir rehearse on Thursdays?",
     "The choir rehearses on Thursdays in the old"},
    {"Captain Brandt's ship is called the Marigold.", "What is Captain Brandt's ship called?",
     "Captain Brandt's ship is called the"},
    {"The cellar's temperature is held at 13 degrees.", "At what temperature is the cellar held?",
     "The cellar's temperature is held at"},
}};

/** What is taken from the operands of attention while `on`. */
struct Capture {
    struct Layer {
        std::vector<float> q;     // last token, [head][d]
        std::vector<float> k, v;  // [kv head][key][d]
    };
    bool on = false;
    int keys = 0;  // of K and V, 0: not wanted
    int d = 0, heads = 0, heads_kv = 0, next = 0;
    float scale = 0.0f;
    std::vector<Layer> layers;
};

float number(const ggml_tensor* t, int64_t i, int64_t row, int64_t head) {
    const char* at = static_cast<const char*>(t->data) + i * static_cast<int64_t>(t->nb[0]) +
                     row * static_cast<int64_t>(t->nb[1]) + head * static_cast<int64_t>(t->nb[2]);
    if (t->type == GGML_TYPE_F32) return *reinterpret_cast<const float*>(at);
    if (t->type == GGML_TYPE_F16) return ggml_fp16_to_fp32(*reinterpret_cast<const ggml_fp16_t*>(at));
    throw std::runtime_error("K, V or Q of a type that is not known here");
}

bool see(ggml_tensor* t, bool ask, void* user) {
    auto& capture = *static_cast<Capture*>(user);
    if (!capture.on || t->op != GGML_OP_FLASH_ATTN_EXT) return false;
    if (ask) return true;
    const ggml_tensor *q = t->src[0], *k = t->src[1], *v = t->src[2];
    if (static_cast<size_t>(capture.next) == capture.layers.size()) capture.layers.emplace_back();
    Capture::Layer& layer = capture.layers[static_cast<size_t>(capture.next++)];
    capture.d = static_cast<int>(q->ne[0]);
    capture.heads = static_cast<int>(q->ne[2]);
    capture.heads_kv = static_cast<int>(k->ne[2]);
    std::memcpy(&capture.scale, t->op_params, sizeof capture.scale);
    layer.q.clear();
    for (int64_t h = 0; h < q->ne[2]; ++h)
        for (int64_t i = 0; i < q->ne[0]; ++i) layer.q.push_back(number(q, i, q->ne[1] - 1, h));
    for (auto [rows, to] : {std::pair{k, &layer.k}, {v, &layer.v}}) {
        if (capture.keys == 0) continue;
        to->clear();
        for (int64_t h = 0; h < rows->ne[2]; ++h)
            for (int64_t key = 0; key < capture.keys; ++key)
                for (int64_t i = 0; i < rows->ne[0]; ++i) to->push_back(number(rows, i, key, h));
    }
    return true;
}

class Model {
public:
    Model(const char* path, Capture* capture) {
        llama_backend_init();
        ggml_backend_load_all();
        model_ = llama_model_load_from_file(path, llama_model_default_params());
        if (!model_) throw std::runtime_error(std::string("cannot load ") + path);
        llama_context_params params = llama_context_default_params();
        params.n_ctx = 4096;
        params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
        params.cb_eval = see;
        params.cb_eval_user_data = capture;
        context_ = llama_init_from_model(model_, params);
        if (!context_) throw std::runtime_error("no context");
    }
    ~Model() {
        llama_free(context_);
        llama_model_free(model_);
    }
    std::vector<llama_token> tokens(const std::string& text) const {
        std::vector<llama_token> made(text.size() + 8);
        const int n = llama_tokenize(llama_model_get_vocab(model_), text.data(), static_cast<int>(text.size()),
                                     made.data(), static_cast<int>(made.size()), false, true);
        if (n < 0) throw std::runtime_error("text that cannot be made tokens");
        made.resize(static_cast<size_t>(n));
        return made;
    }
    void decode(std::vector<llama_token> tokens) {
        for (size_t at = 0; at < tokens.size(); at += 512) {
            const auto n = static_cast<int>(std::min<size_t>(512, tokens.size() - at));
            if (llama_decode(context_, llama_batch_get_one(tokens.data() + at, n)) != 0)
                throw std::runtime_error("decode failed");
        }
        llama_synchronize(context_);
    }
    void forget_from(int position) { llama_memory_seq_rm(llama_get_memory(context_), 0, position, -1); }

private:
    llama_model* model_ = nullptr;
    llama_context* context_ = nullptr;
};

/** The document, exactly kDocument tokens, and where the facts lie. */
std::vector<llama_token> document(const Model& model, const std::string& text, std::vector<Question>* where) {
    std::vector<llama_token> made =
        model.tokens("<|im_start|>user\nRead this text. Then answer a question about it.\n\n");
    const std::vector<llama_token> words = model.tokens(text);
    const std::vector<llama_token> end = model.tokens("\n\n");
    size_t at = 0;
    for (size_t fact = 0; fact <= kFacts.size(); ++fact) {
        // Up to the end of a line near the fact's depth.
        const size_t depth = (fact + 1) * static_cast<size_t>(kDocument) / (kFacts.size() + 1);
        while (made.size() < depth && made.size() < kDocument) {
            if (at == words.size()) throw std::runtime_error("the text is too short");
            made.push_back(words[at++]);
        }
        if (fact == kFacts.size()) break;
        const auto sentence = model.tokens(std::string("\n") + kFacts[fact].sentence + "\n");
        where->push_back({static_cast<int32_t>(made.size()), static_cast<int32_t>(made.size() + sentence.size()) - 1});
        made.insert(made.end(), sentence.begin(), sentence.end());
    }
    made.resize(kDocument);
    return made;
}

/** Mean over questions of the largest share, of the group's heads, that the query gives to its fact. */
double looks_at_facts(const Capture& capture, size_t layer, int head, const std::vector<Question>& questions,
                      const std::vector<std::vector<std::vector<float>>>& queries) {
    const int d = capture.d, group = capture.heads / capture.heads_kv;
    const float* k = capture.layers[layer].k.data() + static_cast<size_t>(head) * kDocument * static_cast<size_t>(d);
    double all = 0.0;
    for (size_t question = 0; question < questions.size(); ++question) {
        double best = 0.0;
        for (int h = 0; h < group; ++h) {
            const float* q = queries[question][layer].data() + static_cast<size_t>((head * group + h) * d);
            std::vector<double> logits(kDocument);
            for (int key = 0; key < kDocument; ++key)
                for (int i = 0; i < d; ++i)
                    logits[static_cast<size_t>(key)] += static_cast<double>(capture.scale) * static_cast<double>(q[i]) *
                                                        static_cast<double>(k[key * d + i]);
            const double most = *std::max_element(logits.begin(), logits.end());
            double sum = 0.0, facts = 0.0;
            for (int key = 0; key < kDocument; ++key) {
                const double w = std::exp(logits[static_cast<size_t>(key)] - most);
                sum += w;
                if (key >= questions[question].first && key <= questions[question].last) facts += w;
            }
            best = std::max(best, facts / sum);
        }
        all += best / static_cast<double>(questions.size());
    }
    return all;
}

void quantise(const float* rows, int d, std::vector<uint16_t>* scales, std::vector<int8_t>* codes) {
    for (int key = 0; key < kDocument; ++key, rows += d) {
        float most = 0.0f;
        for (int i = 0; i < d; ++i) most = std::max(most, std::fabs(rows[i]));
        const ggml_fp16_t half = ggml_fp32_to_fp16(most / 127.0f);
        const float scale = ggml_fp16_to_fp32(half);
        scales->push_back(half);
        for (int i = 0; i < d; ++i)
            codes->push_back(
                static_cast<int8_t>(scale > 0.0f ? std::clamp(std::lrintf(rows[i] / scale), -127l, 127l) : 0));
    }
}

void make(const char* path, const char* text_path, const char* output) {
    std::ifstream file(text_path);
    const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    Capture capture;
    Model model(path, &capture);
    Slice slice;
    model.decode(document(model, text, &slice.questions));
    std::vector<std::vector<std::vector<float>>> queries;  // [question][layer][head · d]
    for (const Fact& fact : kFacts) {
        auto tokens =
            model.tokens(std::string("\n\n") + fact.question + "<|im_end|>\n<|im_start|>assistant\n" + fact.answer);
        const llama_token last = tokens.back();
        tokens.pop_back();
        model.decode(tokens);
        capture.on = true;
        capture.next = 0;
        capture.keys = queries.empty() ? kDocument : 0;
        model.decode({last});
        capture.on = false;
        std::vector<std::vector<float>> of_layers;
        for (const auto& layer : capture.layers) of_layers.push_back(layer.q);
        queries.push_back(of_layers);
        model.forget_from(kDocument);
    }
    slice.d = capture.d;
    slice.keys = kDocument;
    slice.group = capture.heads / capture.heads_kv;
    std::multimap<double, std::pair<int, int>, std::greater<>> heads;
    for (size_t layer = 0; layer < capture.layers.size(); ++layer)
        for (int head = 0; head < capture.heads_kv; ++head)
            heads.insert(
                {looks_at_facts(capture, layer, head, slice.questions, queries), {static_cast<int>(layer), head}});
    std::vector<std::pair<double, std::pair<int, int>>> taken;
    std::set<int> layers;
    for (const auto& [share, which] : heads) {
        if (taken.size() + 1 < kHeads && layers.insert(which.first).second) taken.push_back({share, which});
    }
    taken.push_back(*std::next(heads.begin(), static_cast<std::ptrdiff_t>(heads.size() / 2)));
    for (const auto& [share, which] : taken) {
        std::printf("layer %d, KV head %d: %.1f %% of its attention on the fact that is asked for\n", which.first,
                    which.second, 100.0 * share);
        SliceHead head{which.first, which.second, {}, {}, {}, {}, {}};
        const auto& layer = capture.layers[static_cast<size_t>(which.first)];
        const auto at = static_cast<size_t>(which.second) * kDocument * static_cast<size_t>(slice.d);
        quantise(layer.k.data() + at, slice.d, &head.k_scale, &head.k);
        quantise(layer.v.data() + at, slice.d, &head.v_scale, &head.v);
        for (const auto& question : queries) {
            const float* q = question[static_cast<size_t>(which.first)].data() + which.second * slice.group * slice.d;
            for (int i = 0; i < slice.group * slice.d; ++i) head.q.push_back(ggml_fp32_to_fp16(q[i]));
        }
        slice.heads.push_back(std::move(head));
    }
    write_slice(slice, output);
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 4) {
        std::fprintf(stderr, "make_slice MODEL.gguf TEXT.txt OUTPUT: as docs/development.md says\n");
        return 2;
    }
    try {
        make(argv[1], argv[2], argv[3]);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "make_slice: %s\n", error.what());
        return 1;
    }
    return 0;
}
