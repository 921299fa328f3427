#pragma once

#include <string>
#include <utility>

namespace atlas {

enum class StatusCode { kOk, kInvalidArgument, kUnsupported, kOutOfMemory, kIo, kCorrupt, kInternal };

/** Name of a code as it appears in messages, for example "out of memory". */
const char* status_code_name(StatusCode code);

/** Result of an operation that can fail. Errors name the operation and the values. No exception crosses a module. */
class [[nodiscard]] Status {
public:
    Status() = default;
    Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

    static Status ok() { return {}; }
    static Status invalid_argument(std::string message) { return {StatusCode::kInvalidArgument, std::move(message)}; }
    static Status unsupported(std::string message) { return {StatusCode::kUnsupported, std::move(message)}; }
    static Status out_of_memory(std::string message) { return {StatusCode::kOutOfMemory, std::move(message)}; }
    static Status io(std::string message) { return {StatusCode::kIo, std::move(message)}; }
    static Status corrupt(std::string message) { return {StatusCode::kCorrupt, std::move(message)}; }
    static Status internal(std::string message) { return {StatusCode::kInternal, std::move(message)}; }

    bool is_ok() const { return code_ == StatusCode::kOk; }
    StatusCode code() const { return code_; }
    const std::string& message() const { return message_; }

    /** "ok", or "<code name>: <message>". */
    std::string to_string() const;

private:
    StatusCode code_ = StatusCode::kOk;
    std::string message_;
};

}  // namespace atlas
