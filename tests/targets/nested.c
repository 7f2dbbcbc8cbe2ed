/* nested: functions that call each other at random, and know which call made
 * which.
 *
 *   --trees N      calls per thread that no other one is around (default 100)
 *   --levels L     how deep they go, 0 to 6 (default 6)
 *   --threads T    --spin-ns S (time spent in each call)   --gate --hold
 *
 * long a(long left), b, c: at most `left` levels of calls within.
 * The last line is the truth: calls (of all three), and by: for each
 * "function/parent/depth", how many; the parent of a call that no other is
 * around is "-".
 */
#include <pthread.h>

#include "truth.h"

#define PROBED __attribute__((noinline, noclone, noipa))
#define LEVELS 6
#define NOBODY 3

struct worker {
    pthread_t thread;
    uint64_t seed, calls, by[3][4][LEVELS + 1];
    int open[LEVELS + 1], depth;
    long sum;
};

static uint64_t trees, levels, spin;
static __thread struct worker *self;

PROBED long a(long left);
PROBED long b(long left);
PROBED long c(long left);

static long any(long left)
{
    switch (next_random(&self->seed) % 3) {
    case 0:
        return a(left);
    case 1:
        return b(left);
    default:
        return c(left);
    }
}

__attribute__((always_inline)) static inline long call(int me, long left)
{
    struct worker *w = self;
    int parent = w->depth ? w->open[w->depth - 1] : NOBODY;
    w->calls++;
    w->by[me][parent][w->depth]++;
    w->open[w->depth++] = me;
    if (spin)
        spin_ns(spin);
    long sum = me;
    if (left > 0)
        for (uint64_t n = next_random(&w->seed) % 3; n > 0; n--)
            sum += any(left - 1);
    w->depth--;
    return sum;
}

PROBED long a(long left)
{
    return call(0, left);
}

PROBED long b(long left)
{
    return call(1, left);
}

PROBED long c(long left)
{
    return call(2, left);
}

static void *run(void *of)
{
    self = of;
    for (uint64_t n = 0; n < trees; n++)
        self->sum += any((long)levels);
    return NULL;
}

int main(int argc, char **argv)
{
    truth_start(argc, argv);
    uint64_t threads = option("--threads", 1);
    trees = option("--trees", 100);
    levels = option("--levels", LEVELS);
    spin = option("--spin-ns", 0);
    if (levels > LEVELS)
        _exit(64);
    struct worker *workers = calloc(threads, sizeof *workers);
    if (!workers)
        _exit(72);
    gate();
    for (uint64_t t = 0; t < threads; t++) {
        workers[t].seed = 0x9e3779b97f4a7c15u * (t + 1);
        if (pthread_create(&workers[t].thread, NULL, run, &workers[t]) != 0)
            _exit(73);
    }
    uint64_t calls = 0;
    for (uint64_t t = 0; t < threads; t++) {
        pthread_join(workers[t].thread, NULL);
        calls += workers[t].calls;
    }
    char by[3800] = "";
    size_t used = 0;
    for (int me = 0; me < 3; me++)
        for (int parent = 0; parent <= NOBODY; parent++)
            for (int depth = 0; depth <= LEVELS; depth++) {
                uint64_t n = 0;
                for (uint64_t t = 0; t < threads; t++)
                    n += workers[t].by[me][parent][depth];
                if (n)
                    used += (size_t)snprintf(by + used, sizeof by - used, "%s\"%c/%c/%d\":%llu", used ? "," : "",
                                             "abc"[me], "abc-"[parent], depth, (unsigned long long)n);
            }
    say("{\"pid\":%d,\"calls\":%llu,\"by\":{%s}}", (int)getpid(), (unsigned long long)calls, by);
    hold();
    return 0;
}
