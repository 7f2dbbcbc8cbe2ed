/* calls: calls its own functions and knows how often, and for how long.
 *
 *   --calls N      calls per thread of the chosen function
 *   --threads T    --spin-ns S (time spent inside)   --gate --hold --exit STATUS
 *   --function     work     long work(long n), n = 0, 1, 2 ..., returns 3n + 1
 *                  recurse  recurse(depth) down to 0, --depth D deep
 *                  jump     left by longjmp instead of return
 *                  text     greet(text, length): "name 0", "name 1", ... "name 9", ...
 *                           followed directly by other bytes, no NUL between
 *                  open     the last thing called is open_call(), which waits
 *                           for standard input to close
 *   --time         adds "ns_per_call"
 * work_alias is the same code as work under a second name; quick_work is an
 * IFUNC whose resolver is not a call of it.
 *
 * The last line is the truth: calls (entries of the function), returned (the
 * sum of what it returned), own_ns / own_min_ns / own_max_ns (each call timed
 * from inside by the function itself, only with --spin-ns).
 */
#include <pthread.h>
#include <setjmp.h>
#include <sys/prctl.h>

#include "truth.h"

#define PROBED __attribute__((noinline, noclone, noipa))

struct worker {
    pthread_t thread;
    uint64_t calls, returned, own_ns, own_min, own_max, ns;
    jmp_buf back;
};

static uint64_t calls, depth, spin;
static const char *function;
static pthread_barrier_t begin, done, leave;
static __thread struct worker *self;

static void spend(void)
{
    if (!spin)
        return;
    uint64_t start = now_ns();
    while (now_ns() - start < spin)
        ;
    uint64_t took = now_ns() - start;
    self->own_ns += took;
    if (took < self->own_min)
        self->own_min = took;
    if (took > self->own_max)
        self->own_max = took;
}

PROBED long work(long n)
{
    spend();
    return 3 * n + 1;
}

long work_alias(long n) __attribute__((alias("work")));

static long quick_here(long n)
{
    return n + 1;
}

static long (*resolve_quick(void))(long)
{
    return quick_here;
}

long quick_work(long n) __attribute__((ifunc("resolve_quick")));

PROBED long recurse(long left);

/* Called through this, or gcc would make a loop of the recursion. */
static long (*volatile deeper)(long) = recurse;

PROBED long recurse(long left)
{
    self->calls++;
    if (left > 0)
        return 1 + deeper(left - 1);
    spend();
    return 1;
}

PROBED long jump(long n)
{
    if (n >= 0)
        longjmp(self->back, 1);
    return n;
}

PROBED long greet(const char *text, size_t length)
{
    return text[length - 1];
}

PROBED long open_call(void)
{
    char c;
    while (read(STDIN_FILENO, &c, 1) == 1)
        ;
    return 1;
}

/* A function of its own: setjmp() spoils the locals of the one it is in. */
__attribute__((noinline)) static void call_jump(struct worker *w, long n)
{
    if (setjmp(w->back) == 0)
        w->returned += (uint64_t)jump(n);
}

static void call_all(struct worker *w)
{
    uint64_t start = now_ns();
    for (uint64_t i = 0; i < calls; i++) {
        if (strcmp(function, "recurse") == 0) {
            w->returned += (uint64_t)recurse((long)depth);
            continue;
        }
        w->calls++;
        if (strcmp(function, "jump") == 0) {
            call_jump(w, (long)i);
        } else if (strcmp(function, "text") == 0) {
            char text[] = "name 0|and bytes that do not belong to it";
            text[5] = (char)('0' + i % 10);
            w->returned += (uint64_t)greet(text, 6);
        } else {
            w->returned += (uint64_t)work((long)i);
        }
    }
    w->ns = now_ns() - start;
}

static void *thread_main(void *arg)
{
    self = arg;
    pthread_barrier_wait(&begin);
    call_all(arg);
    pthread_barrier_wait(&done);
    pthread_barrier_wait(&leave);
    return NULL;
}

int main(int argc, char **argv)
{
    truth_start(argc, argv);
    uint64_t threads = option("--threads", 1);
    calls = option("--calls", 1000);
    depth = option("--depth", 10);
    spin = option("--spin-ns", 0);
    function = option_text("--function", "work");
    static struct worker workers[64];
    if (threads < 1 || threads > 64)
        return 64;
    const char *name = option_text("--name", NULL);
    if (name)
        prctl(PR_SET_NAME, name);
    pthread_barrier_init(&begin, NULL, (unsigned)threads + 1);
    pthread_barrier_init(&done, NULL, (unsigned)threads + 1);
    pthread_barrier_init(&leave, NULL, (unsigned)threads + 1);
    for (uint64_t t = 0; t < threads; t++) {
        workers[t].own_min = UINT64_MAX;
        if (pthread_create(&workers[t].thread, NULL, thread_main, &workers[t]) != 0)
            return 73;
    }
    gate();
    if (strcmp(function, "open") == 0) {
        say("{\"pid\":%d,\"calls\":1}", (int)getpid());
        open_call();
        return 0;
    }
    if (flag("--quick"))
        quick_work(1);
    pthread_barrier_wait(&begin);
    pthread_barrier_wait(&done);

    struct worker sum = {.own_min = UINT64_MAX};
    for (uint64_t t = 0; t < threads; t++) {
        struct worker *w = &workers[t];
        sum.calls += w->calls;
        sum.returned += w->returned;
        sum.own_ns += w->own_ns;
        if (w->own_min < sum.own_min)
            sum.own_min = w->own_min;
        if (w->own_max > sum.own_max)
            sum.own_max = w->own_max;
        if (w->ns > sum.ns)
            sum.ns = w->ns;
    }
    char timing[64] = "";
    if (flag("--time") && calls)
        snprintf(timing, sizeof timing, ",\"ns_per_call\":%.2f", (double)sum.ns / (double)calls);
    say("{\"pid\":%d,\"calls\":%llu,\"returned\":%llu,\"own_ns\":%llu,\"own_min_ns\":%llu,"
        "\"own_max_ns\":%llu%s}",
        (int)getpid(), (unsigned long long)sum.calls, (unsigned long long)sum.returned,
        (unsigned long long)sum.own_ns, (unsigned long long)(spin ? sum.own_min : 0),
        (unsigned long long)sum.own_max, timing);
    hold();
    pthread_barrier_wait(&leave);
    for (uint64_t t = 0; t < threads; t++)
        pthread_join(workers[t].thread, NULL);
    return (int)option("--exit", 0);
}
