#pragma once

#include <cstdint>
#include <map>
#include <vector>

namespace atlas::attention {

/**
 * How many keys beyond the fixed window each head of one sequence reads exactly. The heads of all layers share what the planner's budgets are together:
 * where held-out probes find the output still wrong a head gets more of it, up to four times its own, elsewhere less, down to a quarter. The total,
 * and so the cost per token, stays.
 *
 * A head's squared error, relative to its output, is taken to fall as C b^(−1/2) with the keys b that it selects; Σ C b^(−1/2) at a given Σ b is least at
 * b ∝ C^(2/3). Shares are made anew each time every head has been observed 16 times more. Different heads may be observed at once, nothing else is
 * thread-safe.
 */
class AdaptiveWindow {
public:
    static constexpr double kLeast = 0.25, kMost = 4.0;

    /** Shares stay equal until each head has been observed 48 times and over `warm_up` tokens. */
    explicit AdaptiveWindow(double warm_up) : warm_up_(warm_up) {}

    bool has(int layer) const { return layers_.contains(layer); }
    /** `budget`: what a head of this layer selects by itself, relative to other layers. `takes_part`: per KV head. */
    void add(int layer, double budget, const std::vector<bool>& takes_part);
    void remove(int layer);
    /** The head is no longer observed, and keeps its own budget. */
    void leave(int layer, int64_t kv_head);
    /** Forgets the layer's errors; shares are equal until they are known again. */
    void clear(int layer);

    /** A held-out query: squared error of the head's output, squared length of that output, tokens that it stands for. */
    void observe(int layer, int64_t kv_head, double error, double square, double tokens);
    /** To be called before a layer is planned. Shares change with the first layer only, so that they are the same in all layers of a graph. */
    void begin(int layer);
    /** What the head's budget is to be multiplied by. */
    double factor(int layer, int64_t kv_head) const;

private:
    struct Head {
        bool takes_part = false;
        uint64_t observations = 0;
        double tokens = 0.0;
        double error = 0.0, square = 0.0;  // forgetting sums; error as it would be at b = 1
        double factor = 1.0;
    };
    struct Layer {
        double budget = 1.0;
        std::vector<Head> heads;
    };

    void equalize();
    void share();

    const double warm_up_;
    std::map<int, Layer> layers_;
    uint64_t shared_at_ = 0;  // observations of the least observed head
};

}  // namespace atlas::attention
