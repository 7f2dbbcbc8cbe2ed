/* King: allocates and frees, and knows exactly how often.
 *
 * Threads are made before the gate and parked after the counted phase, so
 * between the gate and the hold the process makes no allocation but these:
 *   --pairs N     malloc + free per thread (sizes vary between --min and --max)
 *   --callocs N, --reallocs N (malloc + realloc + free), --memaligns N
 *   --window W    blocks kept alive at a time per thread (default 1)
 *   --threads T   --name COMM   --delay-ms D   --gate   --hold
 *   --time        adds "ns_per_pair", measured inside the slowest thread
 * The last line is the truth:
 *   mallocs, callocs, reallocs, memaligns, frees: calls
 *   bytes: requested from malloc alone; log2: malloc calls per power of two
 */
#include <pthread.h>
#include <sys/prctl.h>

#include "truth.h"

struct worker {
    pthread_t thread;
    uint64_t seed;
    uint64_t mallocs, callocs, reallocs, memaligns, frees;
    uint64_t bytes, smallest, largest, sink, ns;
    uint64_t log2[48];
};

static uint64_t pairs, callocs, reallocs, memaligns, window, lowest, highest;
static pthread_barrier_t begin, done, leave;

static uint64_t next_size(struct worker *w)
{
    return lowest + next_random(&w->seed) % (highest - lowest + 1);
}

static void *take(struct worker *w)
{
    uint64_t size = next_size(w);
    void *p = malloc(size);
    if (!p)
        _exit(72);
    *(volatile char *)p = 1;
    w->mallocs++;
    w->bytes += size;
    if (size < w->smallest)
        w->smallest = size;
    if (size > w->largest)
        w->largest = size;
    w->log2[size ? 63 - __builtin_clzll(size) : 0]++;
    return p;
}

static void give(struct worker *w, void *p)
{
    free(p);
    w->frees++;
}

static void churn(struct worker *w)
{
    void *live[256] = {0};
    uint64_t start = now_ns();
    for (uint64_t i = 0; i < pairs; i++) {
        void **slot = &live[i % window];
        if (*slot)
            give(w, *slot);
        *slot = take(w);
    }
    for (uint64_t i = 0; i < window; i++)
        if (live[i])
            give(w, live[i]);
    w->ns = now_ns() - start;

    for (uint64_t i = 0; i < callocs; i++) {
        void *p = calloc(1 + i % 7, next_size(w));
        if (!p)
            _exit(72);
        w->sink += *(volatile unsigned char *)p;
        w->callocs++;
        give(w, p);
    }
    for (uint64_t i = 0; i < reallocs; i++) {
        void *p = realloc(take(w), next_size(w));
        if (!p)
            _exit(72);
        w->reallocs++;
        give(w, p);
    }
    for (uint64_t i = 0; i < memaligns; i++) {
        void *p;
        if (i % 2)
            p = aligned_alloc(64, (next_size(w) + 63) / 64 * 64);
        else if (posix_memalign(&p, 128, next_size(w)) != 0)
            p = NULL;
        if (!p)
            _exit(72);
        w->memaligns++;
        give(w, p);
    }
}

static void *work(void *arg)
{
    pthread_barrier_wait(&begin);
    churn(arg);
    pthread_barrier_wait(&done);
    pthread_barrier_wait(&leave);
    return NULL;
}

int main(int argc, char **argv)
{
    truth_start(argc, argv);
    uint64_t threads = option("--threads", 1);
    pairs = option("--pairs", 0);
    callocs = option("--callocs", 0);
    reallocs = option("--reallocs", 0);
    memaligns = option("--memaligns", 0);
    window = option("--window", 1);
    lowest = option("--min", 1);
    highest = option("--max", 2000);
    static struct worker workers[64];
    if (threads < 1 || threads > 64 || window < 1 || window > 256 || highest < lowest)
        return 64;
    prctl(PR_SET_NAME, option_text("--name", "King"));

    pthread_barrier_init(&begin, NULL, (unsigned)threads + 1);
    pthread_barrier_init(&done, NULL, (unsigned)threads + 1);
    pthread_barrier_init(&leave, NULL, (unsigned)threads + 1);
    for (uint64_t t = 0; t < threads; t++) {
        workers[t].seed = 0x9e3779b97f4a7c15u * (t + 1);
        workers[t].smallest = UINT64_MAX;
        if (pthread_create(&workers[t].thread, NULL, work, &workers[t]) != 0)
            return 73;
    }
    gate();
    pthread_barrier_wait(&begin);
    pthread_barrier_wait(&done);

    struct worker sum = {.smallest = UINT64_MAX};
    for (uint64_t t = 0; t < threads; t++) {
        struct worker *w = &workers[t];
        sum.mallocs += w->mallocs;
        sum.callocs += w->callocs;
        sum.reallocs += w->reallocs;
        sum.memaligns += w->memaligns;
        sum.frees += w->frees;
        sum.bytes += w->bytes;
        if (w->smallest < sum.smallest)
            sum.smallest = w->smallest;
        if (w->largest > sum.largest)
            sum.largest = w->largest;
        if (w->ns > sum.ns)
            sum.ns = w->ns;
        for (int i = 0; i < 48; i++)
            sum.log2[i] += w->log2[i];
    }
    char log2[1200] = "";
    size_t used = 0;
    for (int i = 0; i < 48; i++)
        used += (size_t)snprintf(log2 + used, sizeof log2 - used, "%s%llu", i ? "," : "",
                                 (unsigned long long)sum.log2[i]);
    char timing[64] = "";
    if (flag("--time") && pairs)
        snprintf(timing, sizeof timing, ",\"ns_per_pair\":%.2f", (double)sum.ns / (double)pairs);
    say("{\"pid\":%d,\"mallocs\":%llu,\"callocs\":%llu,\"reallocs\":%llu,\"memaligns\":%llu,"
        "\"frees\":%llu,\"bytes\":%llu,\"min\":%llu,\"max\":%llu,\"log2\":[%s]%s}",
        (int)getpid(), (unsigned long long)sum.mallocs, (unsigned long long)sum.callocs,
        (unsigned long long)sum.reallocs, (unsigned long long)sum.memaligns,
        (unsigned long long)sum.frees, (unsigned long long)sum.bytes,
        (unsigned long long)(sum.mallocs ? sum.smallest : 0), (unsigned long long)sum.largest, log2,
        timing);
    hold();
    pthread_barrier_wait(&leave);
    for (uint64_t t = 0; t < threads; t++)
        pthread_join(workers[t].thread, NULL);
    return (int)option("--exit", 0);
}
