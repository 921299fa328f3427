#include "eval/kinds.h"

#include <algorithm>
#include <stdexcept>

#include "eval/words.h"

namespace atlas::eval {
namespace {

Question question_of(const Asking& asking, const Fields& fields, Strings expected, std::string answer) {
    return {fill(asking.question, fields), fill(asking.opening, fields), std::move(expected), std::move(answer)};
}

size_t facts_of(const Plan& plan, size_t share = 1) {
    return std::max<size_t>(1, (1 + static_cast<size_t>(plan.distractors)) / share);
}

/** The first plan.questions of as many as there are, plants in random order. */
Trial cut(Trial trial, const Plan& plan, Random& random, int answer_tokens) {
    random.shuffle(&trial.plants);
    if (trial.questions.size() > static_cast<size_t>(plan.questions))
        trial.questions.resize(static_cast<size_t>(plan.questions));
    trial.answer_tokens = answer_tokens;
    return trial;
}

Trial codes(const Plan& plan, Random& random) {
    static const Strings attributes = {"access code",  "locker number",  "ticket number", "badge number",
                                       "phone number", "account number", "door code",     "serial number"};
    static const Strings plants = {" The {A} of {W} is {V}.", " Anyone who asks for the {A} of {W} should be told {V}.",
                                   " For the record, {V} is the {A} of {W}.",
                                   " {W} changed the {A} last week, and now it is {V}.",
                                   " A note in the margin gives {V} as the {A} of {W}."};
    static const std::vector<Asking> askings = {
        {"What is the {A} of {W}?", "The {A} of {W} is"},
        {"Tell me which {A} {W} has.", "{W} has the {A}"},
        {"I need the {A} of {W}. What does the text say?", "According to the text, the {A} of {W} is"},
        {"Which number is the {A} of {W}?", "The {A} of {W} is the number"}};
    Trial trial;
    const Strings names = different(facts_of(plan), random, make_name);
    const Strings values = different(names.size(), random, make_number);
    for (size_t i = 0; i < names.size(); ++i) {
        const Fields fields = {{"A", random.pick(attributes)}, {"W", names[i]}, {"V", values[i]}};
        trial.plants.push_back(fill(random.pick(plants), fields));
        trial.questions.push_back(question_of(random.pick(askings), fields, {values[i]}, " " + values[i]));
    }
    return cut(std::move(trial), plan, random, 16);
}

Trial names_kind(const Plan& plan, Random& random) {
    static const Strings posts = {"gatekeeper", "bookbinder",    "night guard", "bell ringer",
                                  "head cook",  "harbour pilot", "clockmaker",  "schoolteacher"};
    static const Strings plants = {" The {A} of {W} is called {V}.", " In {W} the {A} goes by the name of {V}.",
                                   " For ten years {V} has been the {A} of {W}.",
                                   " When the old {A} of {W} retired, {V} took over and still is there."};
    static const std::vector<Asking> askings = {{"Who is the {A} of {W}?", "The {A} of {W} is"},
                                                {"What is the {A} of {W} called?", "The {A} of {W} is called"},
                                                {"Name the {A} of {W}.", "The name of the {A} of {W} is"}};
    Trial trial;
    const Strings towns = different(facts_of(plan), random, make_name);
    const Strings people = different(towns.size(), random, [](Random& r) { return make_name(r) + " " + make_name(r); });
    for (size_t i = 0; i < towns.size(); ++i) {
        const Fields fields = {{"A", random.pick(posts)}, {"W", towns[i]}, {"V", people[i]}};
        trial.plants.push_back(fill(random.pick(plants), fields));
        trial.questions.push_back(question_of(random.pick(askings), fields, {people[i]}, " " + people[i]));
    }
    return cut(std::move(trial), plan, random, 20);
}

Trial sentences(const Plan& plan, Random& random) {
    static const Strings plants = {" The motto of the guild of {W} reads: \"{V}\".",
                                   " Above the door of the guild of {W} its motto is written: \"{V}\".",
                                   " \"{V}\" is the motto of the guild of {W}.",
                                   " Members of the guild of {W} greet each other with their motto, \"{V}\"."};
    static const std::vector<Asking> askings = {
        {"What is the motto of the guild of {W}?", "The motto of the guild of {W} is: \""},
        {"Quote the motto of the guild of {W} word for word.", "The motto of the guild of {W} reads: \""},
        {"Which motto does the guild of {W} have?", "The guild of {W} has the motto \""}};
    Trial trial;
    const Strings names = different(facts_of(plan), random, make_name);
    const Strings values = different(names.size(), random, make_sentence);
    for (size_t i = 0; i < names.size(); ++i) {
        const Fields fields = {{"W", names[i]}, {"V", values[i]}};
        trial.plants.push_back(fill(random.pick(plants), fields));
        trial.questions.push_back(question_of(random.pick(askings), fields, {values[i]}, values[i]));
    }
    return cut(std::move(trial), plan, random, 20);
}

Trial two_hop(const Plan& plan, Random& random) {
    static const Strings homes = {" {P} lives in the town of {T}.", " The house of {P} stands in the town of {T}.",
                                  " {P} came home to the town of {T} and stayed."};
    static const Strings plants = {" The gate of the town of {T} opens with the code {V}.",
                                   " In the town of {T} the code of the gate is {V}.",
                                   " {V} is the code of the gate of the town of {T}."};
    static const std::vector<Asking> askings = {{"What is the code of the gate of the town where {P} lives?",
                                                 "The code of the gate of the town where {P} lives is"},
                                                {"With which code does the gate of the home town of {P} open?",
                                                 "The gate of the home town of {P} opens with the code"}};
    Trial trial;
    const Strings names = different(2 * facts_of(plan, 2), random, make_name);
    const Strings values = different(names.size() / 2, random, make_number);
    for (size_t i = 0; i < values.size(); ++i) {
        const Fields fields = {{"P", names[2 * i]}, {"T", names[2 * i + 1]}, {"V", values[i]}};
        trial.plants.push_back(fill(random.pick(homes), fields));
        trial.plants.push_back(fill(random.pick(plants), fields));
        trial.questions.push_back(question_of(random.pick(askings), fields, {values[i]}, " " + values[i]));
    }
    return cut(std::move(trial), plan, random, 16);
}

Trial counting(const Plan& plan, Random& random) {
    static const Strings places = {"harbour", "market", "library", "mill", "station", "theatre", "bakery", "museum"};
    static const Strings plants = {" {W} was seen at the {A}.", " Somebody saw {W} at the {A}.",
                                   " {W} was noticed near the {A}."};
    static const std::vector<Asking> askings = {
        {"At how many different places was {W} seen?", "The number of places where {W} was seen is"},
        {"Count the places where {W} was seen.", "{W} was seen at this many places:"}};
    static const Strings words = {"one", "two", "three", "four", "five"};
    Trial trial;
    for (const std::string& name : different(facts_of(plan, 3), random, make_name)) {
        Strings seen = places;
        random.shuffle(&seen);
        const size_t times = 1 + random.below(words.size());
        for (size_t i = 0; i < times; ++i)
            trial.plants.push_back(fill(random.pick(plants), {{"W", name}, {"A", seen[i]}}));
        const std::string digits = std::to_string(times);
        // Either way to write it is right.
        trial.questions.push_back(
            question_of(random.pick(askings), {{"W", name}}, {digits + "|" + words[times - 1]}, " " + digits));
    }
    return cut(std::move(trial), plan, random, 8);
}

Trial identifiers(const Plan& plan, Random& random) {
    static const Strings verbs = {"parse", "load", "flush", "merge", "open", "drop", "walk", "hash"};
    static const Strings objects = {"table", "header", "queue", "index", "record", "buffer", "entry", "block"};
    static const Strings endings = {"c", "h", "cpp", "py", "rs", "go"};
    static const Strings plants = {" The function `{W}` is defined in `{V}`.",
                                   " See `{V}` for the implementation of `{W}`.",
                                   " In the last release `{W}` moved to the file `{V}`."};
    static const std::vector<Asking> by_name = {
        {"In which file is the function `{W}` defined?", "The function `{W}` is defined in the file `"},
        {"Where do I find the implementation of `{W}`?", "The implementation of `{W}` is in the file `"}};
    static const std::vector<Asking> by_file = {
        {"Which function does the file `{V}` hold?", "The file `{V}` holds the function `"},
        {"What is the name of the function that is implemented in `{V}`?",
         "The name of the function that is implemented in `{V}` is `"}};
    Trial trial;
    const Strings functions = different(facts_of(plan), random, [](Random& r) {
        std::string text = r.pick(verbs) + "_";
        text += small(make_name(r)) + "_";
        return text + r.pick(objects);
    });
    const Strings files = different(functions.size(), random, [](Random& r) {
        std::string text = "src/" + small(make_name(r)) + "/";
        text += small(make_name(r)) + ".";
        return text + r.pick(endings);
    });
    for (size_t i = 0; i < functions.size(); ++i) {
        const Fields fields = {{"W", functions[i]}, {"V", files[i]}};
        trial.plants.push_back(fill(random.pick(plants), fields));
        const bool name_asked = random.below(2) == 1;
        const std::string& value = name_asked ? functions[i] : files[i];
        trial.questions.push_back(question_of(random.pick(name_asked ? by_file : by_name), fields, {value}, value));
    }
    return cut(std::move(trial), plan, random, 24);
}

Trial qa(const Plan& plan, Random& random) {
    static const Strings things = {"lighthouse", "bridge", "windmill", "chapel", "water tower", "observatory"};
    static const Strings materials = {"sandstone", "granite", "oak", "slate", "marble", "limestone", "brick", "iron"};
    static const Strings plants = {" In the year {Y} the engineer {P} built the {B} of {T} out of {M}.",
                                   " The {B} of {T} was built out of {M} by the engineer {P} in the year {Y}.",
                                   " Travellers admire the {B} of {T}, which the engineer {P} finished in the year {Y} "
                                   "and for which only {M} was used."};
    static const std::vector<std::pair<Asking, std::string>> askings = {
        {{"Which engineer built the {B} of {T}?", "The {B} of {T} was built by the engineer"}, "P"},
        {{"In which year was the {B} of {T} built?", "The {B} of {T} was built in the year"}, "Y"},
        {{"Which material is the {B} of {T} made of?", "The {B} of {T} is made of"}, "M"},
        {{"In which place did the engineer {P} build something?", "The engineer {P} built something in"}, "T"}};
    Trial trial;
    const size_t n = facts_of(plan);
    const Strings people = different(n, random, make_name);
    const Strings towns = different(n, random, make_name);
    const Strings years = different(n, random, [](Random& r) { return std::to_string(1500 + r.below(400)); });
    for (size_t i = 0; i < n; ++i) {
        const Fields fields = {{"P", people[i]},
                               {"T", towns[i]},
                               {"Y", years[i]},
                               {"B", random.pick(things)},
                               {"M", random.pick(materials)}};
        trial.plants.push_back(fill(random.pick(plants), fields));
        const auto& [asking, wanted] = random.pick(askings);
        const std::string value = fill("{" + wanted + "}", fields);
        trial.questions.push_back(question_of(asking, fields, {value}, " " + value));
    }
    return cut(std::move(trial), plan, random, 12);
}

}  // namespace

const std::vector<std::string>& kind_names() {
    static const std::vector<std::string> names = {"codes",    "names",       "sentences", "two-hop",
                                                   "counting", "identifiers", "qa"};
    return names;
}

Trial make_kind(const std::string& kind, const Plan& plan, Random& random) {
    if (kind == "codes") return codes(plan, random);
    if (kind == "names") return names_kind(plan, random);
    if (kind == "sentences") return sentences(plan, random);
    if (kind == "two-hop") return two_hop(plan, random);
    if (kind == "counting") return counting(plan, random);
    if (kind == "identifiers") return identifiers(plan, random);
    if (kind == "qa") return qa(plan, random);
    throw std::invalid_argument(kind + ": no such task");
}

}  // namespace atlas::eval
