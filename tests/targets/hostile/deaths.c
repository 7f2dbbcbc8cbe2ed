/* deaths: threads that end while in probed functions: by pthread_exit, cancelled at a wait, cancelled in the middle of
 * a loop. What they have to clean up is counted: handlers of pthread_cleanup_push in C, destructors when this is
 * compiled as C++ (-x c++). */
#define THREADED
#include "hostile.h"

#include <pthread.h>
#include <semaphore.h>

#define THREADS 120

TALLY(leaves);
TALLY(waits);
TALLY(spins);
TALLY(lives);

static uint64_t cleaned;
static sem_t there;

static void clean(void *weight)
{
    tick(&cleaned, (uint64_t)(uintptr_t)weight);
}

#ifdef __cplusplus
struct Guard {
    uintptr_t weight;
    explicit Guard(uintptr_t w) : weight(w) {}
    ~Guard() { clean(reinterpret_cast<void *>(weight)); }
};
#define WITH_CLEANUP(w) Guard guard(w);
#define CLEANED
#define FUNCTION extern "C" PROBED
#else
#define WITH_CLEANUP(w) pthread_cleanup_push(clean, (void *)(uintptr_t)(w));
#define CLEANED pthread_cleanup_pop(1);
#define FUNCTION PROBED
#endif

FUNCTION uint64_t lives(uint64_t n)
{
    ENTER(lives);
    uint64_t sum = mix(n, 4);
    LEAVE(lives);
    return sum;
}

FUNCTION uint64_t leaves(uint64_t depth, uint64_t n)
{
    volatile uint64_t sum = n;
    ENTER(leaves);
    WITH_CLEANUP(depth + 1)
    if (depth == 0 && n % 4 != 3) {
        GONE(leaves, THREAD_END, 3);
        pthread_exit(NULL);
    }
    sum = depth == 0 ? lives(n) : mix(leaves(depth - 1, n), depth);
    CLEANED
    LEAVE(leaves);
    return sum;
}

FUNCTION void waits(uint64_t n)
{
    ENTER(waits);
    WITH_CLEANUP(n + 10)
    sem_post(&there);
    for (;;)
        sleep_ms(1000);
    CLEANED
    LEAVE(waits);
}

FUNCTION void spins(uint64_t n)
{
    ENTER(spins);
    volatile uint64_t sum = n;
    sem_post(&there);
    for (;;)
        sum = sum + 1;
    LEAVE(spins);
}

static void *run(void *argument)
{
    uint64_t n = (uint64_t)(uintptr_t)argument;
    int old;
    lives(n);
    if (n % 3 == 0)
        leaves(2, n / 3);
    else if (n % 3 == 1) {
        waits(n);
    } else {
        pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &old);
        spins(n);
    }
    return NULL;
}

static uint64_t round_of_calls(void)
{
    cleaned = 0;
    for (uintptr_t n = 0; n < THREADS; n++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, run, (void *)n) != 0)
            damaged("pthread_create");
        if (n % 3 != 0) {
            sem_wait(&there);
            pthread_cancel(thread);
            if (n % 3 == 1)
                GONE(waits, THREAD_END, 1);
            else
                GONE(spins, THREAD_END, 1);
        }
        void *result;
        pthread_join(thread, &result);
        if ((result == PTHREAD_CANCELED) != (n % 3 != 0))
            damaged("how a thread ended");
    }
    return mix(1, cleaned);
}

int main(int argc, char **argv)
{
    struct tally *const tallies[] = {&tally_leaves, &tally_waits, &tally_spins, &tally_lives, NULL};
    sem_init(&there, 0, 0);
    return hostile(argc, argv, round_of_calls, tallies);
}
