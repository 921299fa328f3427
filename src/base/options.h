#pragma once

#include <bitset>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/option_defaults.h"
#include "base/option_enums.h"
#include "base/option_words.h"
#include "base/status.h"

namespace atlas {

// The members of these structs are the rows of base/options.def, which says what each means, what is allowed and its default.
#define FLAG bool, defaults::flag
#define INTEGER(low, high) int, defaults::integer
#define REAL(low, high) double, defaults::real
#define ONE_OF(...) int, defaults::integer
#define BYTES uint64_t, defaults::bytes
#define CHOICE(Enum, ...) Enum, defaults::choice<Enum>
#define WORD(...) std::string, defaults::text
#define TEXT(what) std::string, defaults::text
#define TEXT_OR_1(what) std::string, defaults::text
#define ATLAS_MEMBER(Type, read, field, text) Type field = read(text);
#define ATLAS_MEMBER_OF(...) ATLAS_MEMBER(__VA_ARGS__)

/** What the planner of long-context attention may do. Keys are cells of the KV cache. */
struct SparseOptions {
#define ATLAS_OF_process(...)
#define ATLAS_OF_sparse(...) __VA_ARGS__
#define ATLAS_OF_memory(...)
#define ATLAS_OPTION(group, field, name, type, initial, audience, when, help) \
    ATLAS_OF_##group(ATLAS_MEMBER_OF(type, field, #initial))
#include "base/options.def"
#undef ATLAS_OF_sparse
#undef ATLAS_OF_memory
};

/** Test-time memory beside attention over long contexts; docs/design/memory.md. */
struct MemoryOptions {
#define ATLAS_OF_sparse(...)
#define ATLAS_OF_memory(...) __VA_ARGS__
#define ATLAS_OPTION(group, field, name, type, initial, audience, when, help) \
    ATLAS_OF_##group(ATLAS_MEMBER_OF(type, field, #initial))
#include "base/options.def"

    bool operator==(const MemoryOptions&) const = default;
};

/** Every option. A plain value: whoever needs options is handed them. */
struct Options {
#undef ATLAS_OF_process
#undef ATLAS_OF_memory
#define ATLAS_OF_process(...) __VA_ARGS__
#define ATLAS_OF_memory(...)
#define ATLAS_OPTION(group, field, name, type, initial, audience, when, help) \
    ATLAS_OF_##group(ATLAS_MEMBER_OF(type, field, #initial))
#include "base/options.def"
    SparseOptions sparse;
    MemoryOptions memory;

    std::bitset<128> given;  ///< those that were set, by row of options.def: some defaults follow what else was chosen
};

#undef ATLAS_OF_process
#undef ATLAS_OF_sparse
#undef ATLAS_OF_memory
#undef ATLAS_MEMBER
#undef ATLAS_MEMBER_OF
#undef FLAG
#undef INTEGER
#undef REAL
#undef ONE_OF
#undef BYTES
#undef CHOICE
#undef WORD
#undef TEXT
#undef TEXT_OR_1

/**
 * Sets one option by the name of its variable ("ATLAS_MODE"); an empty text takes back what was set. Errors, which leave `options` alone: no such option,
 * or a value that is not allowed, naming option, value and what is.
 */
Status set_option(Options& options, std::string_view name, const std::string& text);

/** The value of an option as set_option() takes it. Errors: no such option. */
Status get_option(const Options& options, std::string_view name, std::string* text);

/** Whether an option was set; false for a name that is none. */
bool is_given(const Options& options, std::string_view name);

/** Whether a context may have its own value of an option. Errors: no such option; or one that counts only when the library is loaded, and why. */
Status check_context_option(std::string_view name);

/** The settings that were given, without what followed from them: settle_options() of it is `settled` again. */
Options asked_of(const Options& settled);

/** Makes one option what it is in `from`, given or not; nothing for a name that is none. */
void take_option(Options& to, const Options& from, std::string_view name);

/**
 * What was asked for with what follows from it: defaults that depend on other options, side-car "none". Errors name two options that contradict each
 * other; `out` is left alone then.
 */
Status settle_options(const Options& asked, Options* out);

/** Sets each option that `get` has a value for, and settles them. On an error, the first in the table's order, `out` has the defaults. */
Status parse_options(const std::function<std::optional<std::string>(const char*)>& get, Options* out);

/**
 * parse_options() with the environment, which nothing else reads. unknown: null, or a sentence about each ATLAS_… variable that is no option, a typo
 * most likely; what belongs to the launcher or to ./dev is not among them.
 */
Status read_environment(Options* out, std::vector<std::string>* unknown);

}  // namespace atlas
