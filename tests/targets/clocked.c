/* Functions that read the clock themselves: at their first and at their last statement. At the end the program prints
 * the quantiles of what it read, by the rank that uprof takes: {"calls":N,"p50":N,"p90":N,"p99":N,"p999":N}.
 *
 *   --mode threads      timed() on four threads
 *   --mode recursion    timed() calls itself, twelve deep
 *   --mode coroutines   timed() yields in its middle to seven others of its kind; built with -DCOROUTINES=8 only, as
 *                       a program that knows swapcontext is probed otherwise
 */
#include <pthread.h>
#ifdef COROUTINES
#include <ucontext.h>
#endif

#include "truth.h"

enum { CALLS = 2000, THREADS = 4, DEPTH = 12, STACK = 65536 };

static uint64_t took[CALLS];
static unsigned calls;

/* How long call I is busy: most some ten microseconds, some a millisecond, few (which only wait) tens of them. */
static void be_busy(unsigned i)
{
    unsigned scatter = (i * 2654435761u) >> 16;
    unsigned kind = i % 100;
    if (kind < 86)
        spin_ns(20000 + scatter % 180000);
    else if (kind < 97)
        spin_ns(1000000 + (uint64_t)scatter * 15);
    else
        usleep(20000 + scatter % 20000);
}

static void log_call(uint64_t start)
{
    uint64_t end = now_ns();
    took[__atomic_fetch_add(&calls, 1, __ATOMIC_RELAXED)] = end - start;
}

#ifdef COROUTINES
static ucontext_t hub, context[COROUTINES];
static char stacks[COROUTINES][STACK] __attribute__((aligned(16)));
static int running = -1;

static void yield(void)
{
    if (running >= 0)
        swapcontext(&context[running], &hub);
}
#else
static void yield(void)
{
}
#endif

__attribute__((noinline, noclone, noipa)) unsigned timed(unsigned i, unsigned deeper)
{
    uint64_t start = now_ns();
    be_busy(i);
    yield();
    unsigned sum = i;
    if (deeper)
        sum += timed(i + 7, deeper - 1);
    log_call(start);
    return sum;
}

static volatile unsigned sink;

static void *thread(void *first)
{
    for (unsigned i = 0; i < CALLS / THREADS; i++)
        sink += timed((unsigned)(uintptr_t)first + i, 0);
    return NULL;
}

static void on_threads(void)
{
    pthread_t threads[THREADS];
    for (uintptr_t t = 0; t < THREADS; t++)
        pthread_create(&threads[t], NULL, thread, (void *)(t * 25));
    for (int t = 0; t < THREADS; t++)
        pthread_join(threads[t], NULL);
}

static void in_recursion(void)
{
    for (unsigned i = 0; calls + DEPTH <= CALLS; i += 3)
        sink += timed(i, DEPTH - 1);
}

#ifdef COROUTINES
static void coroutine(int me)
{
    for (unsigned i = 0; i < CALLS / COROUTINES; i++)
        sink += timed((unsigned)me * 13 + i, 0);
    running = -1;
}

static void as_coroutines(void)
{
    for (int c = 0; c < COROUTINES; c++) {
        getcontext(&context[c]);
        context[c].uc_stack.ss_sp = stacks[c];
        context[c].uc_stack.ss_size = STACK;
        context[c].uc_link = &hub;
        makecontext(&context[c], (void (*)(void))coroutine, 1, c);
    }
    while (calls < CALLS / COROUTINES * COROUTINES)
        for (int c = 0; c < COROUTINES; c++) {
            running = c;
            swapcontext(&hub, &context[c]);
        }
}
#endif

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static unsigned long long quantile(unsigned per_mille)
{
    unsigned rank = (calls * per_mille + 999) / 1000;
    return took[rank - 1];
}

int main(int argc, char **argv)
{
    truth_start(argc, argv);
    const char *mode = option_text("--mode", "threads");
    if (strcmp(mode, "threads") == 0)
        on_threads();
    else if (strcmp(mode, "recursion") == 0)
        in_recursion();
#ifdef COROUTINES
    else if (strcmp(mode, "coroutines") == 0)
        as_coroutines();
#endif
    else
        return 2;
    qsort(took, calls, sizeof took[0], by_size);
    printf("{\"calls\":%u,\"p50\":%llu,\"p90\":%llu,\"p99\":%llu,\"p999\":%llu}\n", calls, quantile(500), quantile(900),
           quantile(990), quantile(999));
    return 0;
}
