#include "eval/session.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <thread>

#include "eval/haystack.h"

namespace atlas::eval {
namespace {

[[noreturn]] void fail(const std::string& text) { throw std::runtime_error(text); }

ggml_type cache_type(const std::string& name) {
    for (int i = 0; i < GGML_TYPE_COUNT; ++i) {
        const char* known = ggml_type_name(static_cast<ggml_type>(i));
        if (known && name == known) return static_cast<ggml_type>(i);
    }
    fail(name + ": no such cache type; allowed are ggml's, for example f32, f16, bf16, q8_0, q4_0");
}

int best_of(const float* logits, int n) { return static_cast<int>(std::max_element(logits, logits + n) - logits); }

}  // namespace

Session::Session(const Plan& plan) : plan_(plan) {
    llama_model_params params = llama_model_default_params();
    params.n_gpu_layers = -1;
    model_.reset(llama_model_load_from_file(plan.model.c_str(), params));
    if (!model_) fail(plan.model + ": llama.cpp cannot load this model");
    vocab_ = llama_model_get_vocab(model_.get());
    if (llama_vocab_type(vocab_) == LLAMA_VOCAB_TYPE_NONE)
        fail(plan.model + ": the model has no vocabulary, so texts cannot be read");
    if (llama_model_has_encoder(model_.get()) || !llama_model_has_decoder(model_.get()))
        fail(plan.model + ": not a decoder-only model; these tasks continue a text");
}

void Session::open(int n_ctx) {
    if (n_ctx > trained_context() && !plan_.beyond_training) {
        fail("a length of " + std::to_string(n_ctx) + " tokens is beyond the " + std::to_string(trained_context()) +
             " that the model was trained for (--beyond-training allows it)");
    }
    llama_context_params params = llama_context_default_params();
    params.n_ctx = static_cast<uint32_t>(n_ctx);
    params.n_batch = kBatch;
    params.n_ubatch = kBatch;
    params.n_threads =
        plan_.threads > 0 ? plan_.threads : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
    params.n_threads_batch = params.n_threads;
    params.type_k = cache_type(plan_.cache_type_k);
    params.type_v = cache_type(plan_.cache_type_v);
    // As llama.cpp's programs do: layers with a sliding window keep that window only.
    params.swa_full = false;
    context_.reset(llama_init_from_model(model_.get(), params));
    if (!context_) fail("llama.cpp cannot make a context of " + std::to_string(n_ctx) + " tokens");
}

Tokens Session::tokenize(const std::string& text, bool special) const {
    check_text_bytes(text.size());
    Tokens tokens(text.size() + 16);
    const auto room = static_cast<int32_t>(tokens.size());
    const int n =
        llama_tokenize(vocab_, text.data(), static_cast<int32_t>(text.size()), tokens.data(), room, false, special);
    if (n < 0) fail("the text cannot be tokenised");
    tokens.resize(static_cast<size_t>(n));
    return tokens;
}

Tokens Session::beginning() const {
    if (!llama_vocab_get_add_bos(vocab_)) return {};
    return {llama_vocab_bos(vocab_)};
}

std::pair<std::string, std::string> Session::chat_frame() const {
    const char* chat_template = llama_model_chat_template(model_.get(), nullptr);
    if (!chat_template) fail(plan_.model + ": the model has no chat template");
    const std::string mark = "@@ATLAS@@";
    const llama_chat_message message{"user", mark.c_str()};
    std::string text(4096, '\0');
    int n = llama_chat_apply_template(chat_template, &message, 1, true, text.data(), static_cast<int32_t>(text.size()));
    if (n > static_cast<int>(text.size())) {
        text.resize(static_cast<size_t>(n));
        n = llama_chat_apply_template(chat_template, &message, 1, true, text.data(), n);
    }
    const size_t at = n < 0 ? std::string::npos : text.substr(0, static_cast<size_t>(n)).find(mark);
    if (at == std::string::npos) fail(plan_.model + ": llama.cpp does not know this model's chat template by itself");
    return {text.substr(0, at), text.substr(at + mark.size(), static_cast<size_t>(n) - at - mark.size())};
}

void Session::clear() { llama_memory_clear(llama_get_memory(context_.get()), false); }

bool Session::can_go_back() const {
    const llama_model* model = model_.get();
    return !llama_model_is_recurrent(model) && !llama_model_is_hybrid(model) && llama_model_n_swa(model) == 0;
}

bool Session::keep(int n_tokens) {
    llama_memory_t memory = llama_get_memory(context_.get());
    // A cache that keeps only a sliding window has let go of cells that the shorter text needs again.
    return llama_memory_seq_rm(memory, 0, n_tokens, -1) && llama_memory_seq_pos_min(memory, 0) == 0;
}

void Session::save(const std::string& path, const Tokens& tokens) const {
    // Several processes may read the same document: whole files only.
    const std::string unfinished = path + "." + std::to_string(getpid());
    const size_t written =
        llama_state_seq_save_file(context_.get(), unfinished.c_str(), 0, tokens.data(), tokens.size());
    std::error_code error;
    if (written > 0) std::filesystem::rename(unfinished, path, error);
    if (written > 0 && !error) return;
    const std::string why = error ? error.message() : std::strerror(errno);
    std::filesystem::remove(unfinished, error);
    fail(path + ": what was read cannot be written: " + why);
}

bool Session::restore(const std::string& path, const Tokens& tokens) {
    if (std::error_code error; !std::filesystem::exists(path, error)) return false;
    Tokens found(tokens.size() + 1);
    size_t count = 0;
    if (llama_state_seq_load_file(context_.get(), path.c_str(), 0, found.data(), found.size(), &count) == 0)
        fail(path + ": llama.cpp cannot restore this state; delete the file");
    found.resize(count);
    if (found != tokens) fail(path + ": holds another document; delete the file");
    return true;
}

void Session::decode(const llama_token* tokens, int count, bool all) {
    std::vector<int8_t> wanted(kBatch, all ? 1 : 0);
    for (int done = 0; done < count; done += kBatch) {
        llama_batch batch =
            llama_batch_get_one(const_cast<llama_token*>(tokens + done), std::min(kBatch, count - done));
        if (all) batch.logits = wanted.data();
        if (const int status = llama_decode(context_.get(), batch); status != 0)
            fail("decoding failed with status " + std::to_string(status) +
                 " (1: no room in the KV cache, 2: aborted, below 0: error)");
    }
    llama_synchronize(context_.get());
}

std::string Session::generate(int limit, bool one_line, int* n_tokens, llama_token first,
                              const std::function<bool(const std::string&)>& enough) {
    std::string text;
    *n_tokens = 0;
    while (*n_tokens < limit) {
        llama_token token = *n_tokens == 0 && first >= 0 ? first : best_of(logits(-1), vocabulary());
        if (llama_vocab_is_eog(vocab_, token)) break;
        char piece[256];
        const int n = llama_token_to_piece(vocab_, token, piece, sizeof piece, 0, false);
        if (n > 0) text.append(piece, static_cast<size_t>(n));
        ++*n_tokens;
        if (one_line && text.find('\n') != std::string::npos) break;
        if (enough && enough(text)) break;
        if (*n_tokens < limit) decode(&token, 1, false);
    }
    return text;
}

}  // namespace atlas::eval
