#include "completion.h"

#include "launch.h"
#include "settings.h"

namespace atlas::tool {
namespace {

constexpr const char* kWords =
    "run serve bench info doctor eval convert completion llama-server llama-cli llama-bench llama-completion "
    "llama-perplexity";

std::string switches(const std::string& before, const std::string& between) {
    std::string list;
    const auto add = [&](const std::string& flag) { list += (list.empty() ? "" : between) + before + flag; };
    for (const Setting& setting : settings()) add(setting.flag);
    for (const LauncherSwitch& one : launcher_switches()) add(one.flag);
    return list;
}

std::string for_bash() {
    return "# atlas in bash: source <(atlas completion bash)\n"
           "_atlas() {\n"
           "    local word=${COMP_WORDS[COMP_CWORD]}\n"
           "    if [[ $word == --* ]]; then\n"
           "        COMPREPLY=($(compgen -W \"" +
           switches("--", " ") +
           "\" -- \"$word\"))\n"
           "    elif ((COMP_CWORD == 1)); then\n"
           "        COMPREPLY=($(compgen -W \"" +
           std::string(kWords) +
           "\" -- \"$word\"))\n"
           "    else\n"
           "        COMPREPLY=($(compgen -f -- \"$word\"))\n"
           "    fi\n"
           "}\n"
           "complete -o filenames -F _atlas atlas\n";
}

std::string for_zsh() {
    return "#compdef atlas\n"
           "# atlas in zsh: source <(atlas completion zsh)\n"
           "_atlas() {\n"
           "    if [[ ${words[CURRENT]} == --* ]]; then\n"
           "        compadd -- " +
           switches("--", " ") +
           "\n"
           "    elif ((CURRENT == 2)); then\n"
           "        compadd -- " +
           std::string(kWords) +
           "\n"
           "    else\n"
           "        _files\n"
           "    fi\n"
           "}\n"
           "compdef _atlas atlas\n";
}

std::string quoted(const std::string& text) {
    std::string out = "'";
    for (char c : text) out += c == '\'' ? std::string("\\'") : std::string(1, c);
    return out + "'";
}

std::string for_fish() {
    std::string text =
        "# atlas in fish: atlas completion fish | source\ncomplete -c atlas -n __fish_use_subcommand -a '" +
        std::string(kWords) + "'\n";
    for (const Setting& setting : settings())
        text +=
            "complete -c atlas -l " + setting.flag + " -d " + quoted(std::string(setting.help).substr(0, 60)) + "\n";
    for (const LauncherSwitch& one : launcher_switches())
        text += "complete -c atlas -l " + std::string(one.flag) + " -d " + quoted(std::string(one.help).substr(0, 60)) +
                "\n";
    return text;
}

}  // namespace

std::string completion_for(const std::string& shell) {
    if (shell == "bash") return for_bash();
    if (shell == "zsh") return for_zsh();
    return shell == "fish" ? for_fish() : "";
}

}  // namespace atlas::tool
