#include "child.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>

namespace atlas::tool {
namespace {

using Clock = std::chrono::steady_clock;

/** Reads until the other end closes, and waits for the child. */
void finish(pid_t child, int from, int seconds, ChildResult* result) {
    const Clock::time_point end = Clock::now() + std::chrono::seconds(seconds > 0 ? seconds : 3600);
    char buffer[4096];
    for (;;) {
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count();
        pollfd wait{from, POLLIN, 0};
        if (left <= 0 || poll(&wait, 1, static_cast<int>(left)) == 0) {
            result->timed_out = true;
            kill(child, SIGKILL);
            break;
        }
        const ssize_t n = read(from, buffer, sizeof buffer);
        if (n <= 0) break;
        result->output.append(buffer, static_cast<size_t>(n));
    }
    close(from);
    int status = 0;
    if (waitpid(child, &status, 0) < 0) return;
    if (WIFEXITED(status)) result->status = WEXITSTATUS(status);
    if (WIFSIGNALED(status)) result->signal = WTERMSIG(status);
}

}  // namespace

ChildResult run_in_child(const std::function<std::string()>& body) {
    ChildResult result;
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) {
        result.error = std::string("no pipe: ") + std::strerror(errno);
        return result;
    }
    std::fflush(nullptr);
    const pid_t child = fork();
    if (child == 0) {
        const std::string text = body();
        size_t done = 0;
        while (done < text.size()) {
            const ssize_t n = write(ends[1], text.data() + done, text.size() - done);
            if (n <= 0) break;
            done += static_cast<size_t>(n);
        }
        _exit(done == text.size() ? 0 : 1);
    }
    close(ends[1]);
    if (child < 0) {
        result.error = std::string("could not start a process: ") + std::strerror(errno);
        close(ends[0]);
        return result;
    }
    finish(child, ends[0], 0, &result);
    return result;
}

std::string find_program(const std::string& name) {
    if (name.find('/') != std::string::npos) return access(name.c_str(), X_OK) == 0 ? name : "";
    const char* path = std::getenv("PATH");
    std::istringstream folders(path ? path : "");
    for (std::string folder; std::getline(folders, folder, ':');) {
        const std::string file = (folder.empty() ? "." : folder) + "/" + name;
        if (access(file.c_str(), X_OK) == 0) return file;
    }
    return {};
}

ChildResult run_program(const std::vector<std::string>& command,
                        const std::vector<std::pair<std::string, const char*>>& environment, bool with_errors,
                        int seconds) {
    ChildResult result;
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) {
        result.error = std::string("no pipe: ") + std::strerror(errno);
        return result;
    }
    std::vector<char*> arguments;
    for (const std::string& one : command) arguments.push_back(const_cast<char*>(one.c_str()));
    arguments.push_back(nullptr);
    std::fflush(nullptr);
    const pid_t child = fork();
    if (child == 0) {
        for (const auto& [name, value] : environment) {
            if (value) {
                setenv(name.c_str(), value, 1);
            } else {
                unsetenv(name.c_str());
            }
        }
        const int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
        dup2(nothing, 0);
        dup2(ends[1], 1);
        if (with_errors) dup2(ends[1], 2);
        execvp(arguments.front(), arguments.data());
        _exit(127);
    }
    close(ends[1]);
    if (child < 0) {
        result.error = std::string("could not start a process: ") + std::strerror(errno);
        close(ends[0]);
        return result;
    }
    finish(child, ends[0], seconds, &result);
    if (result.status == 127 && result.output.empty()) result.error = command.front() + " cannot be started";
    return result;
}

}  // namespace atlas::tool
