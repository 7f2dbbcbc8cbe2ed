/* endbr: one function that begins with `push`, or with `endbr64; push` when
 * built with -fcf-protection=full. Prints how long a call takes, timed from
 * inside in rounds, so that a caller compares what a probe on it costs.
 *
 *   --calls N (per round)   --rounds R   --gate --hold   --seconds S (instead of rounds)
 * Truth: calls, ns_per_call (the median round).
 */
#include "truth.h"

static volatile uint64_t sink;

/* Asking for its frame makes the first ordinary instruction `push %rbp`,
 * which the kernel emulates instead of single-stepping. */
__attribute__((noinline, noclone, noipa)) uint64_t probed(uint64_t n)
{
    sink = (uint64_t)__builtin_frame_address(0);
    return n + 1;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    truth_start(argc, argv);
    uint64_t calls = option("--calls", 100000);
    uint64_t rounds = option("--rounds", 5);
    uint64_t seconds = option("--seconds", 0);
    static double ns[4096];
    if (rounds < 1 || rounds > 4096)
        return 64;
    gate();
    uint64_t total = 0, done = 0, begin = now_ns();
    while (seconds ? now_ns() - begin < seconds * 1000000000u && done < 4096 : done < rounds) {
        uint64_t start = now_ns();
        for (uint64_t i = 0; i < calls; i++)
            total += probed(i) != 0;
        ns[done++] = (double)(now_ns() - start) / (double)calls;
    }
    qsort(ns, done, sizeof ns[0], by_value);
    say("{\"pid\":%d,\"calls\":%llu,\"ns_per_call\":%.2f}", (int)getpid(),
        (unsigned long long)total, ns[done / 2]);
    hold();
    return 0;
}
