#include "base/log.h"

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/ansicolor_sink.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdio>
#include <memory>

namespace atlas {
namespace {

/** Bytes of the UTF-8 character at the start of `text`, 0 if there is none. Overlong forms and surrogates are none. */
size_t utf8_length(std::string_view text) {
    const auto at = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
    const unsigned lead = at(0);
    size_t length = 0;
    if (lead < 0x80) length = 1;
    if (lead >= 0xC2 && lead <= 0xDF) length = 2;
    if (lead >= 0xE0 && lead <= 0xEF) length = 3;
    if (lead >= 0xF0 && lead <= 0xF4) length = 4;
    for (size_t i = 1; i < length; ++i) {
        if (at(i) < 0x80 || at(i) > 0xBF) return 0;
    }
    const unsigned second = at(1);
    if ((lead == 0xE0 && second < 0xA0) || (lead == 0xED && second > 0x9F) || (lead == 0xF0 && second < 0x90) ||
        (lead == 0xF4 && second > 0x8F))
        return 0;
    return length;
}

bool is_control(std::string_view character) {
    const auto first = static_cast<unsigned char>(character[0]);
    if (character.size() == 1) return first < 0x20 || first == 0x7F;
    return character.size() == 2 && first == 0xC2 && static_cast<unsigned char>(character[1]) < 0xA0;
}

/** Appends what can be shown of a text by append(characters). Allocates nothing itself: no memory left is what a line may have to say. */
template <typename Append>
void append_printable(std::string_view text, Append append) {
    while (!text.empty()) {
        const size_t length = utf8_length(text);
        const std::string_view character = text.substr(0, std::max<size_t>(length, 1));
        if (length > 0 && !is_control(character)) {
            append(character);
        } else {
            char escaped[8];
            for (const char byte : character) {
                std::snprintf(escaped, sizeof escaped, "\\x%02x",
                              static_cast<unsigned>(static_cast<unsigned char>(byte)));
                append(escaped);
            }
        }
        text.remove_prefix(character.size());
    }
}

/** The message of a line, at the last moment: no call site can forget it. */
class PrintableMessage : public spdlog::custom_flag_formatter {
public:
    void format(const spdlog::details::log_msg& message, const std::tm&, spdlog::memory_buf_t& out) override {
        append_printable({message.payload.data(), message.payload.size()},
                         [&](std::string_view part) { out.append(part.data(), part.data() + part.size()); });
    }
    std::unique_ptr<custom_flag_formatter> clone() const override { return std::make_unique<PrintableMessage>(); }
};

spdlog::level::level_enum spdlog_level(LogLevel level) {
    constexpr std::array kLevels{spdlog::level::trace, spdlog::level::debug, spdlog::level::info, spdlog::level::warn,
                                 spdlog::level::err,   spdlog::level::off,   spdlog::level::debug};
    return kLevels[static_cast<size_t>(level)];
}

}  // namespace

spdlog::logger& log() {
    // Leaked on purpose: static destructors of the host may still log.
    static spdlog::logger& logger = *[] {
        auto* created = new spdlog::logger("atlas", std::make_shared<spdlog::sinks::ansicolor_stderr_sink_mt>());
        auto formatter = std::make_unique<spdlog::pattern_formatter>();
        formatter->add_flag<PrintableMessage>('*').set_pattern("%n: [%l] %*");
        created->set_formatter(std::move(formatter));
        created->set_level(spdlog_level(LogLevel::kWarn));
        return created;
    }();
    return logger;
}

void set_log_level(LogLevel level) { log().set_level(spdlog_level(level)); }

std::string printable(std::string_view text) {
    std::string out;
    out.reserve(text.size());
    append_printable(text, [&](std::string_view part) { out += part; });
    return out;
}

}  // namespace atlas
