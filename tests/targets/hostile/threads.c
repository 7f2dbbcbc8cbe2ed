/* threads: 64 of them call the same functions, to different depths. */
#define THREADED
#include "hostile.h"

#include <pthread.h>

#define THREADS 64

TALLY(climb);
TALLY(work);

static uint64_t sums[THREADS];
static pthread_barrier_t start;

PROBED uint64_t work(uint64_t n)
{
    ENTER(work);
    uint64_t sum = mix(n, 8);
    LEAVE(work);
    return sum;
}

PROBED uint64_t climb(uint64_t depth, uint64_t n)
{
    volatile uint64_t words[WORDS];
    ENTER(climb);
    fill(words, n + depth);
    uint64_t sum = depth == 0 ? work(n) : mix(climb(depth - 1, n), depth);
    sum = mix(sum, check(words, n + depth));
    LEAVE(climb);
    return sum;
}

static void *run(void *argument)
{
    uintptr_t self = (uintptr_t)argument;
    uint64_t sum = self;
    pthread_barrier_wait(&start);
    for (uint64_t n = 0; n < 20; n++)
        sum = mix(sum, climb((self + n) % 8, n));
    sums[self] = sum;
    return NULL;
}

static uint64_t round_of_calls(void)
{
    pthread_t threads[THREADS];
    uint64_t sum = 0;
    pthread_barrier_init(&start, NULL, THREADS);
    for (uintptr_t i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, run, (void *)i) != 0)
            damaged("pthread_create");
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        sum = mix(sum, sums[i]);
    }
    return sum;
}

int main(int argc, char **argv)
{
    struct tally *const tallies[] = {&tally_climb, &tally_work, NULL};
    return hostile(argc, argv, round_of_calls, tallies);
}
