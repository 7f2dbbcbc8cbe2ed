/* loader LIBRARY: loads it behind the gate, calls its run_ways(--calls), and says the truth. */
#include <dlfcn.h>

#include "truth.h"

int main(int argc, char **argv)
{
    truth_start(argc, argv);
    uint64_t calls = option("--calls", 1000);
    if (argc < 2)
        return 64;
    gate();
    void *library = dlopen(argv[1], RTLD_NOW);
    if (!library) {
        say("{\"error\":\"dlopen\"}");
        return 72;
    }
    /* ISO C knows no way from an object pointer to a function pointer. */
    union {
        void *symbol;
        uint64_t (*call)(uint64_t);
    } run = {.symbol = dlsym(library, "run_ways")};
    if (!run.symbol)
        return 73;
    run.call(calls);
    say("{\"pid\":%d,\"calls\":%llu}", (int)getpid(), (unsigned long long)calls);
    hold();
    return 0;
}
