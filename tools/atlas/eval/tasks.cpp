#include "eval/tasks.h"

#include <algorithm>
#include <stdexcept>

#include "eval/kinds.h"
#include "eval/words.h"

namespace atlas::eval {
namespace {

const Strings& common_words() {
    static const Strings all = {"apple",  "river",  "stone",  "candle", "garden", "silver", "window", "letter",
                                "horse",  "bridge", "winter", "music",  "paper",  "forest", "mirror", "bottle",
                                "ladder", "basket", "hammer", "island", "pepper", "saddle", "tunnel", "violin",
                                "wagon",  "anchor", "button", "cheese", "dragon", "engine"};
    return all;
}

/** A fact of a needle; `one_of`: the key has several values. Only varied wordings draw a number. */
std::string fact(const std::string& who, const std::string& value, bool one_of, Wording wording, Random& random) {
    static const Strings varied = {" {W} keeps the lucky number {V}.", " The number {V} brings luck to {W}.",
                                   " Among the lucky numbers of {W} there is {V}.",
                                   " It is said that {W} trusts in {V} as a lucky number."};
    if (wording == Wording::kVaried) return fill(random.pick(varied), {{"W", who}, {"V", value}});
    if (wording == Wording::kPlain)
        return (one_of ? " One secret code of " : " The secret code of ") + who + " is " + value + ".";
    return " One of the special magic numbers for " + who + " is: " + value + ".";
}

Question needle_question(const Strings& wanted, Strings expected, size_t values_per_key, Wording wording,
                         Random& random) {
    static const std::vector<Asking> one = {
        {"What is the lucky number of {W}?", "The lucky number of {W} is"},
        {"Which number brings luck to {W}?", "The number that brings luck to {W} is"},
        {"Tell me the lucky number of {W}.", "The lucky number of {W} is"}};
    static const std::vector<Asking> several = {
        {"What are all the lucky numbers of {W}?", "The lucky numbers of {W} are"},
        {"List every number that brings luck to {W}.", "The numbers that bring luck to {W} are"}};
    Question question;
    const std::string who = list_of(wanted);
    const std::string count = std::to_string(values_per_key);
    if (expected.size() == 1) question.answer = " " + expected[0];
    if (wording == Wording::kVaried) {
        const Asking& asking = random.pick(expected.size() > 1 ? several : one);
        question.text = fill(asking.question, {{"W", who}});
        question.opening = fill(asking.opening, {{"W", who}});
    } else if (wording != Wording::kPlain) {
        const bool many = expected.size() > 1;
        const std::string what = many ? "special magic numbers" : "special magic number";
        question.text =
            "What " + std::string(many ? "are all the " : "is the ") + what + " for " + who + " mentioned in the text?";
        question.opening = "The " + what + " for " + who + " mentioned in the text " + (many ? "are" : "is:");
    } else if (values_per_key > 1) {
        question.text = "What are the " + count + " secret codes of " + who + "?";
        question.opening = "The " + count + " secret codes of " + who + " are";
    } else if (wanted.size() > 1) {
        question.text = "What are the secret codes of " + who + "?";
        question.opening = "They are:";
    } else {
        question.text = "What is the secret code of " + who + "?";
        question.opening = "The secret code of " + who + " is";
    }
    question.expected = std::move(expected);
    return question;
}

/** Needles: a question asks for `asked` keys of `keys` with one value each, or for one key with several. */
Trial needles(size_t keys, size_t asked, size_t values_per_key, const Plan& plan, Random& random) {
    const Wording wording = plan.wording;
    Trial trial;
    const Strings names = different(keys, random, make_name);
    const Strings values = different(keys * values_per_key, random, make_number);
    for (size_t i = 0; i < values.size(); ++i) {
        const std::string& who = names[i / values_per_key];
        trial.plants.push_back(fact(who, values[i], values_per_key > 1, wording, random));
    }
    random.shuffle(&trial.plants);
    // Names lie in random order in the document, so the first ones are as good as any.
    const auto part = [](const Strings& all, size_t first, size_t n) {
        const auto begin = all.begin() + static_cast<ptrdiff_t>(first);
        return Strings(begin, begin + static_cast<ptrdiff_t>(n));
    };
    const size_t questions = std::min(static_cast<size_t>(plan.questions), keys / asked);
    // A stream of their own: the next document does not depend on how many are asked.
    Random asked_random(wording == Wording::kVaried ? random.next() : 0, "questions");
    for (size_t i = 0; i < questions; ++i) {
        trial.questions.push_back(needle_question(part(names, i * asked, asked),
                                                  part(values, i * asked * values_per_key, asked * values_per_key),
                                                  values_per_key, wording, asked_random));
    }
    trial.answer_tokens = static_cast<int>(16 * asked * values_per_key);
    return trial;
}

std::string make_variable(Random& random) {
    std::string name;
    for (int i = 0; i < 3; ++i) name += static_cast<char>('A' + random.below(26));
    return name;
}

Trial variable_tracking(Wording wording, Random& random) {
    constexpr size_t kHops = 2;
    constexpr size_t kChain = kHops + 1;
    static const Strings first = {" Let {X} be {V}.", " At first {X} is set to {V}.",
                                  " The variable {X} starts as {V}."};
    static const Strings later = {" Then {X} takes the value of {V}.", " Next, {X} is made equal to {V}.",
                                  " Copy {V} into {X}."};
    const bool varied = wording == Wording::kVaried;
    const Strings names = different(2 * kChain, random, make_variable);
    const Strings values = different(2, random, make_number);
    Trial trial;
    // Hop by hop, so that the chains run side by side through the text.
    for (size_t hop = 0; hop < kChain; ++hop) {
        for (size_t chain = 0; chain < 2; ++chain) {
            const std::string& name = names[chain * kChain + hop];
            const std::string& value = hop == 0 ? values[chain] : names[chain * kChain + hop - 1];
            if (varied) {
                trial.plants.push_back(fill(random.pick(hop == 0 ? first : later), {{"X", name}, {"V", value}}));
            } else {
                trial.plants.push_back(" VAR " + name + " = " + (hop == 0 ? value : "VAR " + value) + ".");
            }
        }
    }
    Question question;
    if (wording == Wording::kPlain) {
        question = {"What is the value of VAR " + names[kHops] + "?", "VAR " + names[kHops] + " =", {values[0]}, ""};
    } else {
        question.text =
            (varied ? "Which variables hold the value " : "Find all variables that are assigned the value ") +
            values[0] + (varied ? "?" : " in the text above.");
        question.opening = varied ? "The variables that hold the value " + values[0] + " are"
                                  : "According to the chain(s) of variable assignment in the text above, the variables "
                                    "that are assigned the value " +
                                        values[0] + " are:";
        question.expected = Strings(names.begin(), names.begin() + kChain);
    }
    trial.questions = {std::move(question)};
    trial.answer_tokens = wording == Wording::kVaried ? 32 : 64;
    return trial;
}

Trial common_word_list(Wording wording, Random& random) {
    Trial trial;
    Strings words = common_words();
    random.shuffle(&words);
    if (wording == Wording::kPlain) {
        // A list inside the text: six words once or twice, one of them six times.
        Strings list(6, words[0]);
        for (size_t i = 1; i < 6; ++i) list.insert(list.end(), 1 + random.below(2), words[i]);
        random.shuffle(&list);
        std::string text;
        for (const std::string& word : list) text += (text.empty() ? "" : ", ") + word;
        const std::string who = make_name(random);
        trial.plants = {" The list of " + who + ": " + text + "."};
        trial.questions = {{"Which word is most common in the list of " + who + "?",
                            "The most common word is",
                            {words[0]},
                            " " + words[0]}};
        return trial;
    }
    // RULER: the document is a list in which three words come ten times as often as the others.
    for (size_t i = 0; i < words.size(); ++i) trial.words.insert(trial.words.end(), i < 3 ? 10 : 1, words[i]);
    trial.questions = {
        {"What are the 3 most common words in the above list?",
         "The top 3 words that appear most often in the list are:", Strings(words.begin(), words.begin() + 3), ""}};
    trial.answer_tokens = 40;
    return trial;
}

Trial frequent_words(Random& random) {
    // Coded words with frequencies 1/rank² (RULER: zeta with α = 2), the three commonest asked.
    Trial trial;
    const Strings coded = different(20, random, [](Random& r) {
        std::string word;
        for (int i = 0; i < 6; ++i) word += static_cast<char>('a' + r.below(26));
        return word;
    });
    for (size_t rank = 1; rank <= coded.size(); ++rank)
        trial.words.insert(trial.words.end(), std::max<size_t>(1, 100 / (rank * rank)), coded[rank - 1]);
    trial.questions = {{"Find the three most frequently appeared coded words in the above coded text.",
                        "The three most frequently appeared words are:", Strings(coded.begin(), coded.begin() + 3),
                        ""}};
    trial.answer_tokens = 60;
    return trial;
}

Trial make_part(const std::string& task, const Plan& plan, Random& random) {
    if (task == "single") return needles(1, 1, 1, plan, random);
    if (task == "multi-key") return needles(1 + static_cast<size_t>(plan.distractors), 1, 1, plan, random);
    if (task == "multi-value") return needles(1, 1, 4, plan, random);
    if (task == "multi-query") return needles(6, 3, 1, plan, random);
    if (task == "variable-tracking") return variable_tracking(plan.wording, random);
    if (task == "common-words") return common_word_list(plan.wording, random);
    if (task == "frequent-words") return frequent_words(random);
    return make_kind(task, plan, random);
}

/** The plants of all parts in random order, but those of each part in its own. */
Strings interleave(std::vector<Strings> parts, Random& random) {
    std::vector<size_t> turns;
    for (size_t part = 0; part < parts.size(); ++part) turns.insert(turns.end(), parts[part].size(), part);
    random.shuffle(&turns);
    std::vector<size_t> next(parts.size(), 0);
    Strings all;
    for (const size_t part : turns) all.push_back(std::move(parts[part][next[part]++]));
    return all;
}

}  // namespace

Strings parts_of(const std::string& task) {
    Strings parts;
    for (size_t begin = 0; begin <= task.size();) {
        const size_t end = std::min(task.find('+', begin), task.size());
        parts.push_back(task.substr(begin, end - begin));
        begin = end + 1;
    }
    return parts;
}

Trial make_trial(const std::string& task, const Plan& plan, Random& random) {
    const Strings parts = parts_of(task);
    Trial whole;
    whole.answer_tokens = 0;
    std::vector<Strings> plants;
    for (const std::string& part : parts) {
        Trial trial = make_part(part, plan, random);
        if (parts.size() > 1 && !trial.words.empty())
            throw std::invalid_argument(task + ": the document of " + part +
                                        " is a list of words and holds nothing else");
        for (Question& question : trial.questions) {
            question.task = part;
            question.answer_tokens = trial.answer_tokens;
            whole.questions.push_back(std::move(question));
        }
        whole.words = std::move(trial.words);
        whole.answer_tokens = std::max(whole.answer_tokens, trial.answer_tokens);
        plants.push_back(std::move(trial.plants));
    }
    whole.plants = parts.size() == 1 ? std::move(plants[0]) : interleave(std::move(plants), random);
    return whole;
}

}  // namespace atlas::eval
