#include "eval/haystack.h"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <system_error>

#include "eval/score.h"

namespace atlas::eval {
namespace {

// Tokens that sentences counted alone may differ by from the same sentences joined, and room for the line breaks around the question.
constexpr int kSlack = 8;
constexpr size_t kLongSentence = 800;  // bytes

constexpr const char* kChatIntroduction =
    "Some special facts are hidden within the following text. Make sure to memorize them. I will quiz you about them "
    "afterwards.\n";

bool is_space(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

/** About `share` of a sentence, up to a space where it has one; never half a character of UTF-8, never nothing. */
std::string beginning_of(const std::string& sentence, double share) {
    size_t end = std::max<size_t>(1, static_cast<size_t>(share * static_cast<double>(sentence.size())));
    const size_t space = sentence.find_last_of(" \n\t\r", end);
    if (space != std::string::npos && space > 0) end = space;
    while (end < sentence.size() && (static_cast<unsigned char>(sentence[end]) & 0xC0) == 0x80) ++end;
    return sentence.substr(0, end);
}

/** Percent of the text before the plant that answers the question; −1 where it takes several, or the document is a list. */
int place_of(const Question& question, const Trial& trial, const std::string& text) {
    for (const std::string& plant : trial.plants) {
        if (question.expected.size() == 1 && share_found(plant, question.expected) == 1)
            return static_cast<int>(100 * text.find(plant) / text.size());
    }
    return -1;
}

}  // namespace

void check_text_bytes(uint64_t bytes) {
    constexpr uint64_t kMost = static_cast<uint64_t>(INT32_MAX) - 16;  // tokens may be a few more than bytes
    if (bytes > kMost)
        throw std::runtime_error("a text of " + std::to_string(bytes) + " bytes: llama.cpp tokenises at most " +
                                 std::to_string(kMost) + ", give less of it");
}

std::string read_texts(const std::vector<std::string>& paths) {
    // Before gigabytes are read.
    uint64_t bytes = 0;
    for (const std::string& path : paths) {
        std::error_code none;
        if (const auto size = std::filesystem::file_size(path, none); !none) bytes += size;
    }
    check_text_bytes(bytes);
    std::string joined;
    for (const std::string& path : paths) {
        std::ifstream file(path, std::ios::binary);
        std::ostringstream content;
        if (!file || !(content << file.rdbuf())) {
            // An empty file fails the copy without an error.
            if (!file.is_open()) throw std::runtime_error(path + ": " + std::strerror(errno));
            throw std::runtime_error(path + ": the text is empty");
        }
        const std::string text = content.str();
        if (text.find('\0') != std::string::npos) throw std::runtime_error(path + ": not a text file");
        joined += text + "\n\n";
    }
    if (std::all_of(joined.begin(), joined.end(), is_space)) throw std::runtime_error("the text is empty");
    return joined;
}

std::vector<std::string> split_sentences(const std::string& text) {
    std::vector<std::string> sentences;
    size_t begin = 0;
    for (size_t i = 0; i + 1 < text.size(); ++i) {
        const bool end_mark = text[i] == '.' || text[i] == '!' || text[i] == '?';
        // Text without marks is cut at a space, so that needles have places.
        const bool long_one = i - begin > kLongSentence && is_space(text[i + 1]);
        const bool paragraph = text[i] == '\n' && text[i + 1] == '\n' && i > begin;
        if (!(end_mark && is_space(text[i + 1])) && !paragraph && !long_one) continue;
        // The white space belongs to the next sentence, so that a plant can follow the mark.
        const size_t end = paragraph ? i : i + 1;
        if (end > begin) sentences.push_back(text.substr(begin, end - begin));
        begin = end;
    }
    if (begin < text.size()) sentences.push_back(text.substr(begin));
    return sentences;
}

Haystack::Haystack(const Session& session, const Plan& plan, std::vector<std::string> sentences)
    : session_(session), plan_(plan), sentences_(std::move(sentences)), counts_(sentences_.size(), 0) {}

int Haystack::tokens_of(size_t sentence) const {
    int& count = counts_[sentence];
    if (count == 0) count = std::max(1, static_cast<int>(session_.tokenize(sentences_[sentence]).size()));
    return count;
}

std::string Haystack::with_text(const Trial& trial, int budget, int depth, Random& random) const {
    for (const std::string& plant : trial.plants) budget -= static_cast<int>(session_.tokenize(plant).size());
    if (budget < 0) throw std::runtime_error("the facts alone are longer than the document may be");
    // A start that leaves enough text behind it, unless the text may be repeated.
    size_t first = random.below(sentences_.size());
    std::vector<size_t> chosen;
    std::vector<int> before;  // tokens before the sentence
    int total = 0;
    const auto collect = [&] {
        chosen.clear();
        before.clear();
        total = 0;
        for (size_t i = first; total < budget; ++i) {
            if (i >= sentences_.size() && !plan_.repeat_text) break;
            const size_t sentence = i % sentences_.size();
            before.push_back(total);
            chosen.push_back(sentence);
            total += tokens_of(sentence);
        }
    };
    collect();
    if (total < budget) {
        // Too near to the end: as far back as it takes.
        int missing = budget - total;
        while (first > 0 && missing > 0) missing -= tokens_of(--first);
        if (missing > 0) {
            throw std::runtime_error("the text has about " + std::to_string(budget - missing) +
                                     " tokens, a document needs " + std::to_string(budget) +
                                     "; give more text, or --repeat-text");
        }
        collect();
    }
    // The last sentence went over the budget: without it, unless it is the only one, which is cut at a space.
    if (chosen.size() > 1 && total > budget) total = before.back(), chosen.pop_back(), before.pop_back();
    std::string only;
    if (chosen.size() == 1 && total > budget) {
        only = beginning_of(sentences_[chosen[0]], static_cast<double>(budget) / total);
        total = budget;
    }
    std::vector<size_t> places;  // before which sentence each plant goes
    const double n = static_cast<double>(trial.plants.size());
    for (size_t i = 0; i < trial.plants.size(); ++i) {
        const double share = trial.plants.size() == 1 ? depth / 100.0 : (static_cast<double>(i) + random.uniform()) / n;
        const auto at = std::lower_bound(before.begin(), before.end(), static_cast<int>(share * total));
        places.push_back(static_cast<size_t>(at - before.begin()));
    }
    std::string text;
    size_t next = 0;
    for (size_t i = 0; i <= chosen.size(); ++i) {
        for (; next < places.size() && places[next] <= i; ++next) text += trial.plants[next];
        if (i < chosen.size()) text += only.empty() ? sentences_[chosen[i]] : only;
    }
    return text;
}

std::string Haystack::with_words(const Trial& trial, int budget, Random& random) const {
    std::vector<std::string> list;
    int total = 0;
    int round = 0;
    for (const std::string& word : trial.words) round += static_cast<int>(session_.tokenize(" " + word).size());
    while (total + round <= budget) {
        list.insert(list.end(), trial.words.begin(), trial.words.end());
        total += round;
    }
    if (list.empty()) {
        throw std::runtime_error("a list needs " + std::to_string(round) + " tokens, this length leaves " +
                                 std::to_string(budget));
    }
    random.shuffle(&list);
    std::string text;
    for (const std::string& word : list) text += " " + word;
    return text;
}

Prompt Haystack::prompt(const Trial& trial, int length, int depth, Random& random) const {
    std::pair<std::string, std::string> frame;
    if (plan_.chat) {
        frame = session_.chat_frame();
        frame.first += trial.plants.empty() ? "" : kChatIntroduction;
    }
    Tokens front = session_.beginning();
    const Tokens head = session_.tokenize(frame.first, true);
    // A template that writes the BOS token itself must not get two.
    if (!front.empty() && !head.empty() && head.front() == front.front()) front.clear();
    front.insert(front.end(), head.begin(), head.end());
    Prompt prompt;
    size_t longest = 0;
    for (const Question& question : trial.questions) {
        Tokens back;
        if (plan_.chat) {
            back = session_.tokenize("\n\n" + question.text);
            const Tokens tail = session_.tokenize(frame.second + question.opening, true);
            back.insert(back.end(), tail.begin(), tail.end());
        } else {
            back = session_.tokenize("\n\n" + question.text + " " + question.opening);
        }
        longest = std::max(longest, back.size());
        prompt.questions.push_back(std::move(back));
    }
    const int most = length - trial.answer_tokens - static_cast<int>(front.size() + longest);
    const int room =
        length - trial.answer_tokens - static_cast<int>(front.size() + prompt.questions[0].size()) - kSlack;
    if (most < kSlack + 1) {
        throw std::runtime_error("length " + std::to_string(length) + ": question and answer alone need " +
                                 std::to_string(length - most + kSlack) + " tokens");
    }
    // Sentences joined may have a few tokens more than counted alone: then with less text, the same random numbers again.
    for (int budget = room;; budget -= std::max(8, budget / 50)) {
        Random replay = random;
        const std::string text =
            trial.words.empty() ? with_text(trial, budget, depth, replay) : with_words(trial, budget, replay);
        const Tokens body = session_.tokenize(text);
        if (static_cast<int>(body.size()) > most) continue;
        random = replay;
        prompt.document = std::move(front);
        prompt.document.insert(prompt.document.end(), body.begin(), body.end());
        for (const Question& question : trial.questions) prompt.places.push_back(place_of(question, trial, text));
        return prompt;
    }
}

}  // namespace atlas::eval
