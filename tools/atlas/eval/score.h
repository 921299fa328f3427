#pragma once

#include <string>
#include <vector>

namespace atlas::eval {

struct Interval {
    double low, high;
};

/** 95 % interval of a share of `hits` in `n` trials (Wilson 1927): stays inside [0, 1] and is honest for 0 and n hits. */
Interval wilson(int hits, int n);

/** Share of `expected` that occur in `answer` as whole words: 48213 is not found in 148213. RULER's string match; 1 is an exact match.
 *  "3|three" is one string that may be written either way. */
double share_found(const std::string& answer, const std::vector<std::string>& expected);

}  // namespace atlas::eval
