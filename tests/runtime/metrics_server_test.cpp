#include "runtime/metrics_server.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <string>

#include "runtime/metrics.h"
#include "runtime/runtime.h"

namespace atlas::runtime {
namespace {

/** A socket that is connected to the server. */
int connected_to(const MetricsServer& server) {
    const std::string port = server.address().substr(server.address().rfind(':') + 1);
    sockaddr_in name{};
    name.sin_family = AF_INET;
    name.sin_port = htons(static_cast<uint16_t>(std::stoi(port)));
    inet_pton(AF_INET, "127.0.0.1", &name.sin_addr);
    const int connection = socket(AF_INET, SOCK_STREAM, 0);
    EXPECT_EQ(connect(connection, reinterpret_cast<sockaddr*>(&name), sizeof name), 0);
    return connection;
}

std::string all_of(int connection) {
    std::string text;
    char buffer[1024];
    for (ssize_t n; (n = read(connection, buffer, sizeof buffer)) > 0;) text.append(buffer, static_cast<size_t>(n));
    close(connection);
    return text;
}

std::string ask(const MetricsServer& server, const std::string& request) {
    const int connection = connected_to(server);
    EXPECT_EQ(write(connection, request.data(), request.size()), static_cast<ssize_t>(request.size()));
    return all_of(connection);
}

TEST(MetricsServerTest, AnswersWhatItKnows) {
    int asked = 0;
    std::unique_ptr<MetricsServer> server;
    ASSERT_TRUE(MetricsServer::start("0", [&] { return "number " + std::to_string(++asked) + "\n"; }, &server).is_ok());
    EXPECT_TRUE(server->address().starts_with("127.0.0.1:")) << server->address();
    EXPECT_EQ(ask(*server, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"),
              "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: "
              "9\r\nConnection: close\r\n\r\nnumber 1\n");
    EXPECT_TRUE(ask(*server, "GET /metrics?x=1 HTTP/1.0\r\n\r\n").ends_with("number 2\n"));
    EXPECT_TRUE(ask(*server, "HEAD /metrics HTTP/1.1\r\n\r\n").ends_with("\r\n\r\n"));
    EXPECT_TRUE(ask(*server, "GET /other HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
    EXPECT_TRUE(ask(*server, "POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
    EXPECT_TRUE(ask(*server, "GET /" + std::string(20000, 'x')).starts_with("HTTP/1.1 431 "));
    // One that says nothing and goes keeps nobody out.
    close(connected_to(*server));
    EXPECT_TRUE(ask(*server, "GET /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200 "));
    // One that says nothing and stays does not keep the server from ending.
    const int silent = connected_to(*server);
    server.reset();
    EXPECT_EQ(all_of(silent), "");
}

TEST(MetricsServerTest, AddressesThatAreNone) {
    for (const char* address : {"", "x", "127.0.0.1", "127.0.0.1:", "127.0.0.1:70000", "127.0.0.1:-1", "localhost:1",
                                ":9464", "::1:9464", "300.1.1.1:80", "1 2"}) {
        std::unique_ptr<MetricsServer> server;
        const Status status = MetricsServer::start(address, [] { return std::string(); }, &server);
        EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << address;
        EXPECT_TRUE(status.message().starts_with("ATLAS_METRICS=" + std::string(address) + ": allowed is ADDRESS:PORT"))
            << status.message();
        EXPECT_EQ(server, nullptr);
    }
}

TEST(MetricsServerTest, AnAddressThatIsTaken) {
    std::unique_ptr<MetricsServer> first, second;
    ASSERT_TRUE(MetricsServer::start("127.0.0.1:0", [] { return std::string(); }, &first).is_ok());
    const Status status = MetricsServer::start(first->address(), [] { return std::string(); }, &second);
    EXPECT_EQ(status.code(), StatusCode::kIo);
    EXPECT_EQ(status.message(), "ATLAS_METRICS=" + first->address() + ": Address already in use");
}

TEST(MetricsTest, EveryFamilyHasHelpAndType) {
    Runtime runtime{Options{}};
    Work work;
    work.graphs = 3;
    work.attention_calls = 10;
    work.estimated_calls = 4;
    for (const bool host_first : {false, true}) work.measured[index_of(Module::kWeights)].add(0.5, 2.0, 0.0, host_first);
    work.products = 2;
    runtime.activity().add(work);
    runtime.activity().hold({}, {1, 100, 50, 25, 2});
    const std::string text = metrics_text(runtime);
    for (const char* line :
         {"\natlas_graphs_total 3\n", "\natlas_attention_calls_total{kind=\"exact\"} 6\n",
          "\natlas_attention_calls_total{kind=\"sparse\"} 4\n", "\natlas_speedup 4\n",
          "\natlas_module_speedup{module=\"weights\"} 4\n", "\natlas_speedup_samples_total{module=\"weights\"} 2\n",
          "\natlas_memory_bytes{kind=\"index\"} 100\n", "\natlas_memory_bytes{kind=\"kv\"} 0\n",
          "\natlas_contexts 1\n"})
        EXPECT_NE(text.find(line), std::string::npos) << line << text;
    std::string family;
    for (size_t begin = 0; begin < text.size();) {
        const size_t end = text.find('\n', begin);
        ASSERT_NE(end, std::string::npos);
        const std::string line = text.substr(begin, end - begin);
        begin = end + 1;
        if (line.starts_with("# HELP ")) {
            family = line.substr(7, line.find(' ', 7) - 7);
        } else if (line.starts_with("# TYPE ")) {
            EXPECT_TRUE(line.starts_with("# TYPE " + family + " ")) << line;
            EXPECT_EQ(line.ends_with(" counter"), family.ends_with("_total")) << line;
        } else {
            EXPECT_TRUE(line.starts_with(family + " ") || line.starts_with(family + "{")) << line;
        }
    }
}

}  // namespace
}  // namespace atlas::runtime
