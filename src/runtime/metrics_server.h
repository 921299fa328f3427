#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "base/status.h"

namespace atlas::runtime {

/**
 * Answers GET /metrics of HTTP/1.1 with a text, one request per connection, on a thread of its own that takes no signals. Of a library of its own make and no more than that: hosts
 * export whole HTTP libraries, whose symbols a plug-in that brought another version would be bound to.
 */
class MetricsServer {
public:
    /**
     * `address`: "127.0.0.1:9464", "[::1]:9464", or a port alone, which is 127.0.0.1's; port 0: any that is free. `text` is called for each request, on the thread. Errors: invalid
     * argument, not such an address; io: it cannot be listened on, and why. Throws std::bad_alloc.
     */
    static Status start(const std::string& address, std::function<std::string()> text,
                        std::unique_ptr<MetricsServer>* out);
    /** Ends the thread. */
    ~MetricsServer();
    MetricsServer(const MetricsServer&) = delete;
    MetricsServer& operator=(const MetricsServer&) = delete;

    /** "127.0.0.1:9464", with the port that it got. */
    const std::string& address() const { return address_; }

private:
    MetricsServer(int listening, int wake, std::string address, std::function<std::string()> text);
    Status launch();
    void serve() noexcept;
    void answer(int connection) const;

    const int listening_;
    const int wake_;  // readable: the thread is to end
    const std::string address_;
    const std::function<std::string()> text_;
    std::thread thread_;
};

}  // namespace atlas::runtime
