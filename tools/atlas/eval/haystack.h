#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "eval/random.h"
#include "eval/session.h"
#include "eval/tasks.h"

namespace atlas::eval {

/** Throws, naming the number, when a text has more bytes than llama_tokenize can count in its int32. */
void check_text_bytes(uint64_t bytes);

/** The files' text, joined. Throws std::runtime_error that names a missing, empty or non-text file. */
std::string read_texts(const std::vector<std::string>& paths);

/** The text in sentences (an end mark and the space or line break behind it end one); joined they are the text again. */
std::vector<std::string> split_sentences(const std::string& text);

/** What the model reads: the document, then one of the questions with its opening (as many as the trial has). */
struct Prompt {
    Tokens document;
    std::vector<Tokens> questions;
    std::vector<int>
        places;  ///< per question: percent of the document before the fact that answers it, −1 where it takes several
};

/** Makes documents of given numbers of tokens out of the text's sentences. */
class Haystack {
public:
    Haystack(const Session& session, const Plan& plan, std::vector<std::string> sentences);

    /**
     * The document: beginning, consecutive sentences from a random place with the trial's plants between them. With any of the questions
     * it has at most `length` − answer_tokens tokens, and the text is cut to come within a sentence of that with the first; where
     * a longer question does not fit behind that, it is cut further. One plant goes to `depth` percent of the text; several are spread
     * over it in their order. Throws std::runtime_error when the text is too short.
     */
    Prompt prompt(const Trial& trial, int length, int depth, Random& random) const;

private:
    std::string with_text(const Trial& trial, int budget, int depth, Random& random) const;
    std::string with_words(const Trial& trial, int budget, Random& random) const;
    int tokens_of(size_t sentence) const;

    const Session& session_;
    const Plan& plan_;
    std::vector<std::string> sentences_;
    mutable std::vector<int> counts_;  // tokens of each sentence, 0 = not counted yet
};

}  // namespace atlas::eval
