#include "eval/tasks.h"

#include <algorithm>
#include <set>
#include <stdexcept>

namespace atlas::eval {
namespace {

using Strings = std::vector<std::string>;

const Strings& onsets() {
    static const Strings all = {"B", "C", "D", "F", "G",  "K",  "L",  "M",  "N",  "P",  "R",
                                "S", "T", "V", "Z", "Br", "Dr", "Kr", "Pl", "Sh", "St", "Tr"};
    return all;
}
const Strings& vowels() {
    static const Strings all = {"a", "e", "i", "o", "u", "ai", "ea"};
    return all;
}
const Strings& middles() {
    static const Strings all = {"b", "d", "f", "g", "k", "l", "m", "n", "r", "s", "t", "v", "nd", "rt", "lm", "st"};
    return all;
}
const Strings& common_words() {
    static const Strings all = {"apple",  "river",  "stone",  "candle", "garden", "silver", "window", "letter",
                                "horse",  "bridge", "winter", "music",  "paper",  "forest", "mirror", "bottle",
                                "ladder", "basket", "hammer", "island", "pepper", "saddle", "tunnel", "violin",
                                "wagon",  "anchor", "button", "cheese", "dragon", "engine"};
    return all;
}

std::string make_name(Random& random) {
    std::string name = random.pick(onsets()) + random.pick(vowels());
    for (size_t i = random.below(2) + 1; i > 0; --i) name += random.pick(middles()) + random.pick(vowels());
    static const Strings ends = {"", "n", "r", "l", "s", "din", "ven"};
    return name + random.pick(ends);
}

std::string make_number(Random& random) { return std::to_string(10000 + random.below(90000)); }

/** n different strings made by `make`. */
template <typename Make>
Strings different(size_t n, Random& random, Make make) {
    std::set<std::string> seen;
    Strings out;
    while (out.size() < n) {
        std::string text = make(random);
        if (seen.insert(text).second) out.push_back(std::move(text));
    }
    return out;
}

std::string list_of(const Strings& items) {
    std::string text;
    for (size_t i = 0; i < items.size(); ++i) text += (i == 0 ? "" : i + 1 == items.size() ? " and " : ", ") + items[i];
    return text;
}

std::string fact(const std::string& who, const std::string& value, Wording wording) {
    if (wording == Wording::kPlain) return " The secret code of " + who + " is " + value + ".";
    return " One of the special magic numbers for " + who + " is: " + value + ".";
}

Question needle_question(const Strings& wanted, Strings expected, size_t values_per_key, Wording wording) {
    Question question;
    const std::string who = list_of(wanted);
    const std::string count = std::to_string(values_per_key);
    if (wording != Wording::kPlain) {
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
        const bool one_of = values_per_key > 1 && wording == Wording::kPlain;
        trial.plants.push_back(one_of ? " One secret code of " + who + " is " + values[i] + "."
                                      : fact(who, values[i], wording));
    }
    random.shuffle(&trial.plants);
    // Names lie in random order in the document, so the first ones are as good as any.
    const auto part = [](const Strings& all, size_t first, size_t n) {
        const auto begin = all.begin() + static_cast<ptrdiff_t>(first);
        return Strings(begin, begin + static_cast<ptrdiff_t>(n));
    };
    const size_t questions = std::min(static_cast<size_t>(plan.questions), keys / asked);
    for (size_t i = 0; i < questions; ++i) {
        trial.questions.push_back(needle_question(part(names, i * asked, asked),
                                                  part(values, i * asked * values_per_key, asked * values_per_key),
                                                  values_per_key, wording));
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
    const Strings names = different(2 * kChain, random, make_variable);
    const Strings values = different(2, random, make_number);
    Trial trial;
    // Hop by hop, so that the chains run side by side through the text.
    for (size_t hop = 0; hop < kChain; ++hop) {
        for (size_t chain = 0; chain < 2; ++chain) {
            const std::string& name = names[chain * kChain + hop];
            trial.plants.push_back(" VAR " + name + " = " +
                                   (hop == 0 ? values[chain] : "VAR " + names[chain * kChain + hop - 1]) + ".");
        }
    }
    if (wording == Wording::kPlain) {
        trial.questions = {
            {"What is the value of VAR " + names[kHops] + "?", "VAR " + names[kHops] + " =", {values[0]}}};
    } else {
        trial.questions = {{"Find all variables that are assigned the value " + values[0] + " in the text above.",
                            "According to the chain(s) of variable assignment in the text above, the variables that "
                            "are assigned the value " +
                                values[0] + " are:",
                            Strings(names.begin(), names.begin() + kChain)}};
    }
    trial.answer_tokens = 64;
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
        trial.questions = {
            {"Which word is most common in the list of " + who + "?", "The most common word is", {words[0]}}};
        return trial;
    }
    // RULER: the document is a list in which three words come ten times as often as the others.
    for (size_t i = 0; i < words.size(); ++i) trial.words.insert(trial.words.end(), i < 3 ? 10 : 1, words[i]);
    trial.questions = {
        {"What are the 3 most common words in the above list?",
         "The top 3 words that appear most often in the list are:", Strings(words.begin(), words.begin() + 3)}};
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
                        "The three most frequently appeared words are:", Strings(coded.begin(), coded.begin() + 3)}};
    trial.answer_tokens = 60;
    return trial;
}

}  // namespace

Trial make_trial(const std::string& task, const Plan& plan, Random& random) {
    if (task == "single") return needles(1, 1, 1, plan, random);
    if (task == "multi-key") return needles(1 + static_cast<size_t>(plan.distractors), 1, 1, plan, random);
    if (task == "multi-value") return needles(1, 1, 4, plan, random);
    if (task == "multi-query") return needles(6, 3, 1, plan, random);
    if (task == "variable-tracking") return variable_tracking(plan.wording, random);
    if (task == "common-words") return common_word_list(plan.wording, random);
    if (task == "frequent-words") return frequent_words(random);
    throw std::invalid_argument(task + ": no such task");
}

}  // namespace atlas::eval
