#pragma once

namespace atlas {

namespace per_thread_detail {

/** A value of one thread, in the list of what ends with it. */
struct Node {
    Node* next = nullptr;
    void (*destroy)(Node* node) = nullptr;
};

/** The calling thread owns `node` from here on: it is destroyed when the thread ends. Throws std::bad_alloc, and owns nothing then. */
void own(Node* node);

}  // namespace per_thread_detail

/**
 * Declared `thread_local` (or static thread_local) by those who keep a T, workspace mostly, for each thread that asks. Plain `thread_local T`
 * would do but for one thing: glibc ends the process where there is no memory to register its destructor. This throws instead.
 *
 * The thread that ends main() ends without its destructors, like every thread that exit() finds.
 */
template <class T>
class PerThread {
public:
    /** The calling thread's T, made by its first call. Throws std::bad_alloc, and what T's constructor throws. */
    T& get() {
        if (!value_) make();
        return *value_;
    }

private:
    struct Owned : per_thread_detail::Node {
        T value{};
    };

    void make() {
        auto* owned = new Owned;
        owned->destroy = [](per_thread_detail::Node* node) { delete static_cast<Owned*>(node); };
        try {
            per_thread_detail::own(owned);
        } catch (...) {
            delete owned;
            throw;
        }
        value_ = &owned->value;
    }

    // No destructor and a constant start: nothing is registered with the C library.
    T* value_ = nullptr;
};

}  // namespace atlas
