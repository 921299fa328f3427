// A host without any instrumentation that loads the library of planted faults as llama.cpp loads the plug-in: host LIBRARY FUNCTION.
#include <dlfcn.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <thread>

int main(int argc, char** argv) {
    if (argc != 3) return 2;
    void* library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        std::fprintf(stderr, "%s\n", dlerror());
        return 2;
    }
    const auto function = reinterpret_cast<int (*)()>(dlsym(library, argv[2]));
    if (!function) {
        std::fprintf(stderr, "%s\n", dlerror());
        return 2;
    }
    if (std::strcmp(argv[2], "planted_race_step") == 0) {
        // Both alive at once, since of threads that follow each other the sanitizer may take the second for the first; and few steps, since
        // it forgets where the older ones were. It cannot see into this program, so the waiting orders nothing for it.
        std::atomic<int> coming{2};
        std::atomic<int> going{2};
        const auto meet = [](std::atomic<int>& missing) {
            for (--missing; missing > 0;) std::this_thread::yield();
        };
        const auto many = [&] {
            meet(coming);
            for (int i = 0; i < 1000; ++i) function();
            meet(going);
        };
        std::thread first(many);
        std::thread second(many);
        first.join();
        second.join();
    }
    std::printf("%s came back with %d\n", argv[2], function());
    return 0;
}
