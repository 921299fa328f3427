#include "runtime/metrics_server.h"

#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <system_error>
#include <utility>

#include "base/log.h"

namespace atlas::runtime {
namespace {

constexpr size_t kMostRequest = 8192;
constexpr int kPatience = 10000;  // milliseconds, for one connection, as long as Prometheus waits: the next one waits for it
constexpr const char* kAllowed =
    ": allowed is ADDRESS:PORT with an address in numbers, as 127.0.0.1:9464 or [::1]:9464, or a port alone";

/** Host and port, in numbers; false where it is no address. */
bool split(const std::string& address, std::string* host, std::string* port) {
    const size_t colon = address.rfind(':');
    *host = colon == std::string::npos ? "127.0.0.1" : address.substr(0, colon);
    *port = colon == std::string::npos ? address : address.substr(colon + 1);
    if (host->size() > 2 && host->front() == '[' && host->back() == ']') {
        *host = host->substr(1, host->size() - 2);
    } else if (host->find(':') != std::string::npos) {
        return false;
    }
    if (host->empty() || port->empty() || port->size() > 5 ||
        port->find_first_not_of("0123456789") != std::string::npos)
        return false;
    return std::atoi(port->c_str()) <= 65535;
}

std::string address_of(int socket) {
    sockaddr_storage name{};
    socklen_t size = sizeof name;
    char host[NI_MAXHOST] = "", port[NI_MAXSERV] = "";
    if (getsockname(socket, reinterpret_cast<sockaddr*>(&name), &size) != 0 ||
        getnameinfo(reinterpret_cast<sockaddr*>(&name), size, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return {};
    return (name.ss_family == AF_INET6 ? "[" + std::string(host) + "]" : std::string(host)) + ":" + port;
}

/** A socket that listens; −1 with errno. */
int listen_on(const addrinfo& info) {
    const int listening = socket(info.ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listening < 0) return -1;
    const int on = 1;
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listening, info.ai_addr, info.ai_addrlen) == 0 && listen(listening, 16) == 0) return listening;
    const int error = errno;
    close(listening);
    errno = error;
    return -1;
}

void send_all(int connection, std::string_view text) {
    while (!text.empty()) {
        const ssize_t n = send(connection, text.data(), text.size(), MSG_NOSIGNAL);
        if (n <= 0) return;
        text.remove_prefix(static_cast<size_t>(n));
    }
}

std::string response(const char* status, const char* type, const std::string& body, bool with_body) {
    return std::string("HTTP/1.1 ") + status + "\r\nContent-Type: " + type +
           "\r\nContent-Length: " + std::to_string(body.size()) + "\r\nConnection: close\r\n\r\n" +
           (with_body ? body : "");
}

}  // namespace

Status MetricsServer::start(const std::string& address, std::function<std::string()> text,
                            std::unique_ptr<MetricsServer>* out) {
    const std::string name = "ATLAS_METRICS=" + address;
    std::string host, port;
    addrinfo* found = nullptr;
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
    if (!split(address, &host, &port) || getaddrinfo(host.c_str(), port.c_str(), &hints, &found) != 0)
        return Status::invalid_argument(name + kAllowed);
    const int listening = listen_on(*found);
    const int error = errno;
    freeaddrinfo(found);
    if (listening < 0) return Status::io(name + ": " + std::strerror(error));
    const int wake = eventfd(0, EFD_CLOEXEC);
    if (wake < 0) {
        close(listening);
        return Status::io(name + ": " + std::strerror(errno));
    }
    std::unique_ptr<MetricsServer> made(new MetricsServer(listening, wake, address_of(listening), std::move(text)));
    if (Status status = made->launch(); !status.is_ok()) return status;
    *out = std::move(made);
    return Status::ok();
}

MetricsServer::MetricsServer(int listening, int wake, std::string address, std::function<std::string()> text)
    : listening_(listening), wake_(wake), address_(std::move(address)), text_(std::move(text)) {}

Status MetricsServer::launch() {
    // A host's handlers are to run on its own threads.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    Status status;
    try {
        thread_ = std::thread([this] { serve(); });
    } catch (const std::system_error& error) {
        status = Status::io(std::string("ATLAS_METRICS: no thread: ") + error.what());
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return status;
}

MetricsServer::~MetricsServer() {
    const uint64_t one = 1;
    if (thread_.joinable() && write(wake_, &one, sizeof one) == sizeof one) thread_.join();
    close(listening_);
    close(wake_);
}

void MetricsServer::serve() noexcept {
    for (;;) {
        pollfd waiting[] = {{listening_, POLLIN, 0}, {wake_, POLLIN, 0}};
        if (poll(waiting, 2, -1) < 0 && errno != EINTR) return;
        if (waiting[1].revents != 0) return;
        if ((waiting[0].revents & POLLIN) == 0) continue;
        const int connection = accept4(listening_, nullptr, nullptr, SOCK_CLOEXEC);
        if (connection < 0) continue;
        try {
            answer(connection);
        } catch (const std::exception& error) {
            log().warn("metrics: {}", error.what());
        }
        close(connection);
    }
}

void MetricsServer::answer(int connection) const {
    using Clock = std::chrono::steady_clock;
    const timeval patience{kPatience / 1000, 0};
    setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    const Clock::time_point end = Clock::now() + std::chrono::milliseconds(kPatience);
    std::string request;
    while (request.find("\r\n\r\n") == std::string::npos) {
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count();
        pollfd waiting[] = {{connection, POLLIN, 0}, {wake_, POLLIN, 0}};
        if (left <= 0 || poll(waiting, 2, static_cast<int>(left)) <= 0 || waiting[1].revents != 0) return;
        char buffer[2048];
        const ssize_t n = recv(connection, buffer, sizeof buffer, 0);
        if (n <= 0) return;
        request.append(buffer, static_cast<size_t>(n));
        if (request.size() > kMostRequest) {
            send_all(connection, response("431 Request Header Fields Too Large", "text/plain", "too long\n", true));
            return;
        }
    }
    const std::string_view line = std::string_view(request).substr(0, request.find("\r\n"));
    const bool head = line.starts_with("HEAD ");
    if (!head && !line.starts_with("GET ")) {
        send_all(connection, response("405 Method Not Allowed", "text/plain", "only GET\n", true));
        return;
    }
    const std::string_view path = line.substr(line.find(' ') + 1);
    const std::string_view name = path.substr(0, path.find_first_of(" ?"));
    if (name == "/metrics") {
        send_all(connection, response("200 OK", "text/plain; version=0.0.4; charset=utf-8", text_(), !head));
    } else {
        send_all(connection,
                 response(name == "/" ? "200 OK" : "404 Not Found", "text/plain", "Atlas: see /metrics\n", !head));
    }
}

}  // namespace atlas::runtime
