/* ways: one place of each kind that a probe can name, each passed --calls times (1000).
 *
 *   global_work    a function that everybody sees
 *   local_work     a static one
 *   inlined_work   put in line twice: in first_user (every time) and in
 *                  second_user (every second time)
 *   the line that ends in "the probed line"
 *   USDT probes uprof_ways:entry (n, n * 2) and uprof_ways:text (a string);
 *                  with -D_SDT_HAS_SEMAPHORES only if somebody asks for them;
 *                  without sys/sdt.h (musl): -DNO_SDT
 *   strlen, memcpy by calls through pointers that libc's resolvers chose
 *
 * With -DPADDING the same functions lie elsewhere. With -DLIBRARY only the
 * functions, with run_ways() to call them; loader.c loads that library late.
 *
 * The truth is formatted before the gate: printing calls strlen and memcpy
 * inside of libc.
 */
#include "truth.h"

#ifdef NO_SDT
#define DTRACE_PROBE1(provider, name, a) ((void)0)
#define DTRACE_PROBE2(provider, name, a, b) ((void)0)
#else
#ifdef _SDT_HAS_SEMAPHORES
/* sys/sdt.h refers to a counter of this name for each probe. */
__extension__ unsigned short uprof_ways_entry_semaphore __attribute__((section(".probes")));
__extension__ unsigned short uprof_ways_text_semaphore __attribute__((section(".probes")));
#endif
#include <sys/sdt.h>
#endif

#ifdef _SDT_HAS_SEMAPHORES
#define WANTED(counter) __builtin_expect(*(volatile unsigned short *)&(counter), 0)
#else
#define WANTED(counter) 1
#endif

#define PROBED __attribute__((noinline, noclone, noipa))

#ifdef PADDING
PROBED long padding(long n)
{
    __asm__ volatile(".skip 4096, 0x90" : "+r"(n));
    return n;
}
#endif

PROBED long global_work(long n)
{
    return 3 * n + 1;
}

PROBED static long local_work(long n)
{
    return 5 * n + 1;
}

/* The statement that the compiler may neither move nor remove marks its start. */
__attribute__((always_inline)) static inline long inlined_work(long n)
{
    __asm__ volatile("nop" : "+r"(n));
    return n ^ 7;
}

PROBED long first_user(long n)
{
    return inlined_work(n) + 1;
}

PROBED long second_user(long n)
{
    return inlined_work(n + 11) + 2;
}

PROBED long lined(long n)
{
    long twice = n;
    __asm__ volatile("lea (%0,%0), %0" : "+r"(twice)); /* the probed line */
    return twice;
}

PROBED long traced(long n)
{
    const char *text = n % 2 ? "odd" : "even";
    (void)text;
    if (WANTED(uprof_ways_entry_semaphore))
        DTRACE_PROBE2(uprof_ways, entry, n, n * 2);
    if (WANTED(uprof_ways_text_semaphore))
        DTRACE_PROBE1(uprof_ways, text, text);
    return n;
}

static size_t (*volatile length_of)(const char *) = strlen;
static void *(*volatile copy)(void *, const void *, size_t) = memcpy;

__attribute__((noipa)) uint64_t run_ways(uint64_t calls)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < calls; i++) {
        char to[8];
        long n = (long)i;
        sum += (uint64_t)(global_work(n) + local_work(n) + first_user(n) + lined(n) + traced(n));
        if (i % 2 == 0)
            sum += (uint64_t)second_user(n);
        sum += length_of("eleven char") + (copy(to, "copied", 7) == to);
    }
    return sum;
}

#ifndef LIBRARY
int main(int argc, char **argv)
{
    truth_start(argc, argv);
    uint64_t calls = option("--calls", 1000);
    char line[128];
    int length = snprintf(line, sizeof line, "{\"pid\":%d,\"calls\":%llu,\"inlined\":%llu}\n", (int)getpid(),
                          (unsigned long long)calls, (unsigned long long)(calls + (calls + 1) / 2));
    gate();
    run_ways(calls);
    if (write(STDOUT_FILENO, line, (size_t)length) != length)
        return 70;
    hold();
    return 0;
}
#endif
