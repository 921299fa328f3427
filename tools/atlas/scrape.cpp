#include <arpa/inet.h>
#include <netdb.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "running.h"

namespace atlas::tool {
namespace {

namespace fs = std::filesystem;

constexpr const char* kListening = "0A";
constexpr size_t kMostAnswer = size_t{4} << 20;

/** Inodes of its sockets. */
std::set<std::string> sockets_of(int pid) {
    std::set<std::string> inodes;
    std::error_code error;
    for (const fs::directory_entry& entry : fs::directory_iterator("/proc/" + std::to_string(pid) + "/fd", error)) {
        const std::string target = fs::read_symlink(entry.path(), error).string();
        if (target.starts_with("socket:[")) inodes.insert(target.substr(8, target.size() - 9));
    }
    return inodes;
}

/** "0100007F:24F8" of /proc/PID/net/tcp and tcp6: words of 32 bits in this machine's order, which hold the bytes of the address in the network's; the port in plain. */
std::string address_of(const std::string& local) {
    const size_t colon = local.find(':');
    if (colon != 8 && colon != 32) return "";
    uint32_t words[4] = {};
    for (size_t i = 0; i < colon / 8; ++i)
        words[i] = static_cast<uint32_t>(std::stoul(local.substr(8 * i, 8), nullptr, 16));
    const std::string port = std::to_string(std::stoul(local.substr(colon + 1), nullptr, 16));
    char text[INET6_ADDRSTRLEN] = "";
    if (colon == 8) return (words[0] == 0 ? "127.0.0.1" : inet_ntop(AF_INET, words, text, sizeof text)) + (":" + port);
    const in6_addr zero{};
    return std::string("[") +
           (std::memcmp(words, &zero, sizeof zero) == 0 ? "::1" : inet_ntop(AF_INET6, words, text, sizeof text)) +
           "]:" + port;
}

/** −1 where it cannot be reached. */
int connect_to(const std::string& address) {
    const size_t colon = address.rfind(':');
    std::string host = address.substr(0, colon);
    if (host.starts_with('[')) host = host.substr(1, host.size() - 2);
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
    addrinfo* found = nullptr;
    if (colon == std::string::npos || getaddrinfo(host.c_str(), address.c_str() + colon + 1, &hints, &found) != 0)
        return -1;
    int connection = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const timeval patience{2, 0};
    if (connection >= 0) {
        setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
        if (connect(connection, found->ai_addr, found->ai_addrlen) != 0) {
            close(connection);
            connection = -1;
        }
    }
    freeaddrinfo(found);
    return connection;
}

}  // namespace

std::vector<std::string> listening_addresses(int pid) {
    std::vector<std::string> addresses;
    const std::set<std::string> sockets = sockets_of(pid);
    for (const char* table : {"tcp", "tcp6"}) {
        // Of the process's own network, which is another one in a container.
        std::ifstream file("/proc/" + std::to_string(pid) + "/net/" + table);
        std::string line;
        std::getline(file, line);
        while (std::getline(file, line)) {
            std::istringstream words(line);
            std::string number, local, remote, state, queues, timer, retransmits, user, timeout, inode;
            words >> number >> local >> remote >> state >> queues >> timer >> retransmits >> user >> timeout >> inode;
            if (state != kListening || sockets.count(inode) == 0) continue;
            if (std::string address = address_of(local); !address.empty()) addresses.push_back(std::move(address));
        }
    }
    return addresses;
}

std::string http_get(const std::string& address, const std::string& path) {
    const int connection = connect_to(address);
    if (connection < 0) return "";
    const std::string request = "GET " + path + " HTTP/1.1\r\nHost: " + address + "\r\nConnection: close\r\n\r\n";
    std::string answer;
    if (send(connection, request.data(), request.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(request.size())) {
        char buffer[16384];
        for (ssize_t n; answer.size() < kMostAnswer && (n = recv(connection, buffer, sizeof buffer, 0)) > 0;)
            answer.append(buffer, static_cast<size_t>(n));
    }
    close(connection);
    const size_t body = answer.find("\r\n\r\n");
    const bool good = answer.starts_with("HTTP/1.") && answer.substr(8, 5) == " 200 ";
    return good && body != std::string::npos ? answer.substr(body + 4) : "";
}

std::map<std::string, double> parse_samples(const std::string& text) {
    std::map<std::string, double> samples;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
        const size_t blank = line.rfind(' ');
        if (line.starts_with('#') || blank == std::string::npos || blank == 0) continue;
        const char* begin = line.c_str() + blank + 1;
        char* end = nullptr;
        const double value = std::strtod(begin, &end);
        if (end != begin && *end == '\0') samples[line.substr(0, blank)] = value;
    }
    return samples;
}

}  // namespace atlas::tool
