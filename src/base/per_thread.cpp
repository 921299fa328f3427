#include "base/per_thread.h"

#include <pthread.h>

#include <new>

namespace atlas::per_thread_detail {
namespace {

void destroy_all(void* first) {
    for (auto* node = static_cast<Node*>(first); node;) {
        Node* next = node->next;
        node->destroy(node);
        node = next;
    }
}

/** The key of this library. It goes when the library does: what threads still hold then stays, and nothing calls into what is gone. */
class Key {
public:
    Key() { made_ = pthread_key_create(&key_, destroy_all) == 0; }
    ~Key() {
        if (made_) pthread_key_delete(key_);
    }
    Key(const Key&) = delete;
    Key& operator=(const Key&) = delete;

    void put(Node* node) {
        if (!made_) throw std::bad_alloc();
        node->next = static_cast<Node*>(pthread_getspecific(key_));
        if (pthread_setspecific(key_, node) != 0) throw std::bad_alloc();
    }

private:
    pthread_key_t key_{};
    bool made_ = false;
};

}  // namespace

void own(Node* node) {
    static Key key;
    key.put(node);
}

}  // namespace atlas::per_thread_detail
