#pragma once

#include <map>
#include <string>
#include <vector>

namespace atlas::tool {

/** Where a process listens, as 127.0.0.1:9464 or [::1]:9464; an address that means all of the machine's is given as its loopback. Of processes that this user may look into. */
std::vector<std::string> listening_addresses(int pid);

/** The body of an answer 200 to GET of http://ADDRESS`path`; "" where there is none within two seconds. */
std::string http_get(const std::string& address, const std::string& path);

/** Samples of Prometheus's text format: name, with labels as they stand, to value. Lines that are none are left out. */
std::map<std::string, double> parse_samples(const std::string& text);

/**
 * Prints what the metrics of a process say: modules, speed-up, memory, tiers. Nothing but ATLAS_METRICS has to be set there, at any port: it is found among the sockets on which
 * the process listens. The exit status: 1, with a line, where there is no such process, no Atlas in it, or no metrics.
 */
int print_running(int pid, bool json);

}  // namespace atlas::tool
