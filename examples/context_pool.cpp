// A server's heart: a pool of contexts that share one runtime, worker threads that take requests from a queue, and a memory pool that bounds all of their caches.
// Requests are lines of standard input; answers are printed as they are done.
//
//   context_pool MODEL [WORKERS [TOKENS-PER-ANSWER]]
#include <algorithm>
#include <condition_variable>
#include <iostream>
#include <memory>
#include <mutex>
#include <optional>
#include <queue>
#include <string>
#include <thread>
#include <vector>

#include "common.h"

namespace {

struct Request {
    int number;
    std::string text;
};

class Queue {
public:
    void put(std::string text) {
        const std::lock_guard lock(mutex_);
        waiting_.push({next_++, std::move(text)});
        changed_.notify_one();
    }
    void close() {
        const std::lock_guard lock(mutex_);
        closed_ = true;
        changed_.notify_all();
    }
    /** Waits for a request; none: the queue is closed. */
    std::optional<Request> take() {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return closed_ || !waiting_.empty(); });
        if (waiting_.empty()) return std::nullopt;
        Request request = std::move(waiting_.front());
        waiting_.pop();
        return request;
    }

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    std::queue<Request> waiting_;
    int next_ = 1;
    bool closed_ = false;
};

struct FreeContext {
    void operator()(llama_context* ctx) const { llama_free(ctx); }
};

std::string answer(llama_model* model, llama_context* ctx, const std::string& text, int most) {
    const llama_vocab* vocab = llama_model_get_vocab(model);
    int32_t count = 0;
    llama_token* tokens = tokens_of(model, text.c_str(), true, &count);
    llama_memory_clear(llama_get_memory(ctx), true);  // what it held goes back to the pool
    decode(ctx, tokens, count);
    std::free(tokens);
    std::string written;
    for (int i = 0; i < most; ++i) {
        llama_token token = most_likely(ctx, vocab);
        if (llama_vocab_is_eog(vocab, token)) break;
        char piece[128];
        const int32_t length = llama_token_to_piece(vocab, token, piece, sizeof piece, 0, true);
        if (length > 0) written.append(piece, static_cast<size_t>(length));
        decode(ctx, &token, 1);
    }
    return written;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 2) fail("usage", "context_pool MODEL [WORKERS [TOKENS-PER-ANSWER]]");
    const int workers = argc > 2 ? std::max(1, std::atoi(argv[2])) : 4;
    const int most = argc > 3 ? std::atoi(argv[3]) : 64;
    llama_model* model = load_model(argv[1]);
    atlas_runtime_ctx* runtime = make_runtime(model, 1024);

    Queue queue;
    std::mutex printing;
    std::vector<std::thread> threads;
    for (int i = 0; i < workers; ++i) {
        threads.emplace_back([&] {
            llama_context_params params = llama_context_default_params();
            params.n_ctx = 2048;
            params.n_threads = params.n_threads_batch = 1;  // a thread for each worker
            const std::unique_ptr<llama_context, FreeContext> ctx(llama_init_from_model(model, params));
            if (!ctx) fail(argv[1], "no context");
            check(atlas_runtime_enable_for_context(runtime, ctx.get()));
            while (const std::optional<Request> request = queue.take()) {
                const std::string text = answer(model, ctx.get(), request->text, most);
                const std::lock_guard lock(printing);
                std::cout << request->number << ": " << text << std::endl;
            }
            check(atlas_runtime_disable_for_context(runtime, ctx.get()));
        });
    }
    for (std::string line; std::getline(std::cin, line);) {
        if (!line.empty()) queue.put(line);
    }
    queue.close();
    for (std::thread& thread : threads) thread.join();
    print_stats(runtime);
    atlas_runtime_cleanup(runtime);
    llama_model_free(model);
    return 0;
}
