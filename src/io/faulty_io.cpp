#include "io/faulty_io.h"

#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <new>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <utility>

namespace atlas::io {
namespace {

struct Field {
    const char* name;
    double Faults::* value;
    bool is_share;
};

constexpr Field kFields[] = {
    {"read_eio", &Faults::read_eio, true},
    {"write_eio", &Faults::write_eio, true},
    {"write_enospc", &Faults::write_enospc, true},
    {"grow_enospc", &Faults::grow_enospc, true},
    {"short_read", &Faults::short_read, true},
    {"short_write", &Faults::short_write, true},
    {"torn_write", &Faults::torn_write, true},
    {"flip_read", &Faults::flip_read, true},
    {"flip_write", &Faults::flip_write, true},
    {"hang", &Faults::hang, true},
    {"hang_ms", &Faults::hang_ms, false},
    {"after", &Faults::after, false},
    {"seed", &Faults::seed, false},
};

class FaultyIo final : public BlockIo {
public:
    FaultyIo(std::unique_ptr<BlockIo> io, const Faults& faults)
        : io_(std::move(io)), faults_(faults), random_(static_cast<uint64_t>(faults.seed) * 2 + 1) {}
    ~FaultyIo() override = default;

    void submit(std::span<IoRequest* const> requests) override {
        for (IoRequest* request : requests) begin(request);
    }

    void reap(bool wait, std::vector<IoRequest*>* out) override {
        out->insert(out->end(), done_.begin(), done_.end());
        wait = wait && done_.empty();
        done_.clear();
        std::vector<IoRequest*> inner;
        io_->reap(wait, &inner);
        for (IoRequest* request : inner) {
            const auto found = changed_.find(request);
            Changed& changed = found->second;
            IoRequest* original = changed.original;
            original->result =
                changed.pretend && request->result >= 0 ? static_cast<int64_t>(original->bytes) : request->result;
            if (changed.flip && !original->is_write && original->result > 0)
                original->memory[next() % static_cast<uint64_t>(original->result)] ^= std::byte{4};
            out->push_back(original);
            changed_.erase(found);
        }
    }

    int grow(uint64_t from, uint64_t bytes) override {
        ++transfers_;
        return happens(faults_.grow_enospc) ? ENOSPC : io_->grow(from, bytes);
    }

private:
    struct Free {
        void operator()(std::byte* memory) const { ::operator delete[](memory, std::align_val_t{kIoAlignment}); }
    };
    struct Changed {
        std::unique_ptr<IoRequest> request;
        std::unique_ptr<std::byte[], Free> copy;
        IoRequest* original = nullptr;
        bool pretend = false, flip = false;
    };

    void begin(IoRequest* request) {
        ++transfers_;
        if (happens(faults_.hang))
            std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(faults_.hang_ms));
        const int error = request->is_write           ? happens(faults_.write_eio)      ? EIO
                                                        : happens(faults_.write_enospc) ? ENOSPC
                                                                                        : 0
                          : happens(faults_.read_eio) ? EIO
                                                      : 0;
        if (error != 0) {
            request->result = -error;
            done_.push_back(request);
            return;
        }
        Changed changed;
        changed.request = std::make_unique<IoRequest>(*request);
        changed.original = request;
        const size_t half = request->bytes / 2 / kIoAlignment * kIoAlignment;
        if (request->is_write) {
            changed.pretend = happens(faults_.torn_write);
            if (changed.pretend || happens(faults_.short_write)) changed.request->bytes = half;
            if (happens(faults_.flip_write)) {
                changed.copy.reset(
                    static_cast<std::byte*>(::operator new[](request->bytes, std::align_val_t{kIoAlignment})));
                std::memcpy(changed.copy.get(), request->memory, request->bytes);
                changed.copy[next() % request->bytes] ^= std::byte{16};
                changed.request->memory = changed.copy.get();
            }
        } else {
            if (happens(faults_.short_read)) changed.request->bytes = half;
            changed.flip = happens(faults_.flip_read);
        }
        if (changed.request->bytes == 0) {
            request->result = changed.pretend ? static_cast<int64_t>(request->bytes) : 0;
            done_.push_back(request);
            return;
        }
        IoRequest* inner = changed.request.get();
        changed_.emplace(inner, std::move(changed));
        io_->submit({&inner, 1});
    }

    uint64_t next() {  // xorshift64*
        random_ ^= random_ >> 12;
        random_ ^= random_ << 25;
        random_ ^= random_ >> 27;
        return (random_ * 0x2545F4914F6CDD1Dull) >> 8;
    }
    bool happens(double share) {
        if (share <= 0.0 || static_cast<double>(transfers_) <= faults_.after) return false;
        return static_cast<double>(next() % 1000000) < share * 1e6;
    }

    std::unordered_map<IoRequest*, Changed> changed_;  // by the request that `io_` has
    std::unique_ptr<BlockIo> io_;                      // ends first: it may still have requests of changed_
    const Faults faults_;
    uint64_t random_;
    uint64_t transfers_ = 0;
    std::vector<IoRequest*> done_;
};

}  // namespace

Status parse_faults(const std::string& text, Faults* out) {
    *out = {};
    std::string_view rest(text);
    while (!rest.empty()) {
        const std::string_view part = rest.substr(0, rest.find(','));
        rest.remove_prefix(std::min(part.size() + 1, rest.size()));
        const size_t equals = part.find('=');
        const std::string_view name = part.substr(0, equals);
        const Field* found = nullptr;
        for (const Field& field : kFields) {
            if (name == field.name) found = &field;
        }
        double value = -1.0;
        if (found && equals != std::string_view::npos) {
            const std::string_view number = part.substr(equals + 1);
            const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), value);
            if (error != std::errc{} || end != number.data() + number.size()) value = -1.0;
        }
        if (!found || !(value >= 0.0) || (found->is_share && value > 1.0)) {
            std::string names;
            for (const Field& field : kFields) names += std::string(names.empty() ? "" : ", ") + field.name;
            return Status::invalid_argument(
                "ATLAS_TEST_FAULTS has '" + std::string(part) +
                "': allowed are NAME=SHARE, from 0 to 1, and whole numbers for the last three, of " + names);
        }
        out->*(found->value) = value;
    }
    return Status::ok();
}

std::unique_ptr<BlockIo> make_faulty_io(std::unique_ptr<BlockIo> io, const Faults& faults) {
    return std::make_unique<FaultyIo>(std::move(io), faults);
}

}  // namespace atlas::io
