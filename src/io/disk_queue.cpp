#include "io/disk_queue.h"

#include <algorithm>
#include <deque>
#include <utility>
#include <vector>

namespace atlas::io {

class DiskQueue::Layer final : public BlockIo {
public:
    Layer(std::shared_ptr<DiskQueue> queue, std::unique_ptr<BlockIo> io)
        : queue_(std::move(queue)), io_(std::move(io)) {}
    ~Layer() override {
        io_.reset();
        for (size_t i = 0; i < kUrgencies; ++i) queue_->under_way_[i] -= mine_[i];
    }

    void submit(std::span<IoRequest* const> requests) override {
        std::array<size_t, kUrgencies> added{};
        for (IoRequest* request : requests) {
            held_[at(request)].push_back(request);
            ++added[at(request)];
        }
        start();
        for (size_t i = 0; i < kUrgencies; ++i) queue_->held_ += std::min(held_[i].size(), added[i]);
    }

    void reap(bool wait, std::vector<IoRequest*>* out) override {
        start();
        const size_t before = out->size();
        io_->reap(wait, out);
        if (out->size() == before) return;
        for (size_t i = before; i < out->size(); ++i) {
            const size_t urgency = at((*out)[i]);
            --mine_[urgency];
            --queue_->under_way_[urgency];
        }
        start();
    }

    int grow(uint64_t from, uint64_t bytes) override { return io_->grow(from, bytes); }

private:
    static size_t at(const IoRequest* request) { return static_cast<size_t>(request->urgency); }

    /** Hands on what may start, the most urgent first. With nothing of an urgency under way some always may, so a caller that waits is not left alone. */
    void start() {
        starting_.clear();
        for (size_t i = 0; i < kUrgencies; ++i) {
            std::deque<IoRequest*>& held = held_[i];
            while (!held.empty() && (mine_[i] < kBeside || queue_->is_free_for(static_cast<Urgency>(i)))) {
                starting_.push_back(held.front());
                held.pop_front();
                ++mine_[i];
                ++queue_->under_way_[i];
                ++queue_->started_[i];
            }
        }
        if (!starting_.empty()) io_->submit(starting_);
    }

    const std::shared_ptr<DiskQueue> queue_;
    std::unique_ptr<BlockIo> io_;
    std::array<int, kUrgencies> mine_{};  // under way
    std::array<std::deque<IoRequest*>, kUrgencies> held_;
    std::vector<IoRequest*> starting_;
};

std::unique_ptr<BlockIo> DiskQueue::share(std::shared_ptr<DiskQueue> queue, std::unique_ptr<BlockIo> io) {
    return std::make_unique<Layer>(std::move(queue), std::move(io));
}

std::string DiskQueue::json() const {
    static constexpr const char* kNames[kUrgencies] = {"now", "soon", "later"};
    std::string text = "{";
    for (size_t i = 0; i < kUrgencies; ++i)
        text += std::string("\"") + kNames[i] + "\": " + std::to_string(started_[i].load()) + ", ";
    return text + "\"held\": " + std::to_string(held_.load()) + "}";
}

}  // namespace atlas::io
