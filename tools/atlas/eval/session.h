#pragma once

#include <llama.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "eval/plan.h"

namespace atlas::eval {

using Tokens = std::vector<llama_token>;

/** A model and one context of it. Errors are std::runtime_error whose text names what is wrong. Not thread-safe. */
class Session {
public:
    /** Loads the model; open() makes the context. */
    explicit Session(const Plan& plan);

    /** A context of at least `n_ctx` cells; throws when the model was not trained for as many and the plan does not allow more. */
    void open(int n_ctx);

    int trained_context() const { return llama_model_n_ctx_train(model_.get()); }
    int vocabulary() const { return llama_vocab_n_tokens(vocab_); }

    /** `special`: texts of control tokens become these tokens. No token is added in front. */
    Tokens tokenize(const std::string& text, bool special = false) const;
    /** The tokens that every text begins with: BOS where the vocabulary wants it. */
    Tokens beginning() const;
    /** What the chat template puts before and after a user's message; throws when the model has none that llama.cpp knows. */
    std::pair<std::string, std::string> chat_frame() const;

    /** Forgets everything. */
    void clear();
    /** Whether keep() can be relied on: neither recurrent state nor layers that keep a window only. */
    bool can_go_back() const;
    /** Forgets all but the first n_tokens. False where the model's memory cannot (recurrent state): then clear() and read them again. */
    bool keep(int n_tokens);
    /** Writes what is in the context, which are these tokens, to a file of llama.cpp's format. Throws where it cannot. */
    void save(const std::string& path, const Tokens& tokens) const;
    /** The context, which is clear, holds these tokens afterwards. False where there is no file; throws where it holds something else. */
    bool restore(const std::string& path, const Tokens& tokens);
    /** Appends tokens; afterwards logits(i) are those of tokens[i] if `all`, else only the last token has them (logits(-1)). */
    void decode(const llama_token* tokens, int count, bool all);
    const float* logits(int i) const { return llama_get_logits_ith(context_.get(), i); }
    /**
     * Greedy continuation of what is in the context by `first` (below 0: the likeliest behind it), until `limit` tokens, the end of the turn,
     * a line break if `one_line`, or until `enough` says so of the text.
     */
    std::string generate(int limit, bool one_line, int* n_tokens, llama_token first = -1,
                         const std::function<bool(const std::string&)>& enough = nullptr);

    static constexpr int kBatch = 512;  ///< most tokens of a decode() with logits for all

private:
    template <auto Free>
    struct Deleter {
        template <typename T>
        void operator()(T* object) const {
            Free(object);
        }
    };

    const Plan& plan_;
    std::unique_ptr<llama_model, Deleter<llama_model_free>> model_;
    std::unique_ptr<llama_context, Deleter<llama_free>> context_;
    const llama_vocab* vocab_ = nullptr;
};

}  // namespace atlas::eval
