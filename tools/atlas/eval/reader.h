#pragma once

#include <functional>
#include <string>

#include "eval/session.h"

namespace atlas::eval {

/**
 * Brings documents into a session: by reading them or, with a folder, by restoring what was read before. The file of a document is
 * named after everything that what was read depends on: model, reading mode, cache types, tokens. It is llama.cpp's own format.
 */
class Reader {
public:
    /** `key` says who reads: files are named after it, too. With `may_read` false every document must be in the folder. */
    Reader(Session& session, const Plan& plan, std::string key, bool may_read);

    /** Whether documents are kept: then the question is read in batches of its own. */
    bool keeps() const { return !folder_.empty(); }

    /** The file of a document that lies, or will lie, in the folder. */
    std::string file_of(const Tokens& document) const;

    /** The session holds the document and nothing else. Returns the seconds that reading took, 0 if it was restored. Throws. */
    double read(const Tokens& document);

    /** Only so much of what was read last is the document, the rest may be forgotten. */
    void shorten(size_t n_tokens) { document_.resize(n_tokens); }

    /** Forgets what follows the document that was read last; false where that takes reading it again (not with a folder). */
    bool back();

private:
    Session& session_;
    std::string folder_, key_, file_;
    bool may_read_;
    Tokens document_;
};

/** Of a file's size and 65 of its pages: tells models and libraries apart without reading gigabytes. Throws if it cannot be read. */
uint64_t fingerprint(const std::string& path);

}  // namespace atlas::eval
