/* exits: a process that ends within probed functions: three deep on the thread that calls exit(), one deep on another
 * that waits for ever. A handler of atexit calls a probed function. */
#define THREADED
#include "hostile.h"

#include <pthread.h>
#include <semaphore.h>

#define ROUND 1000

TALLY(work);
TALLY(leave);
TALLY(wait_for_ever);

static sem_t there;

PROBED uint64_t work(uint64_t n)
{
    ENTER(work);
    uint64_t sum = mix(n, 6);
    LEAVE(work);
    return sum;
}

PROBED void *wait_for_ever(void *unused)
{
    ENTER(wait_for_ever);
    sem_post(&there);
    for (;;)
        sleep_ms(1000);
    LEAVE(wait_for_ever);
    return unused;
}

static void at_exit(void)
{
    struct tally *const tallies[] = {&tally_work, &tally_leave, &tally_wait_for_ever, NULL};
    uint64_t sum = 0;
    for (uint64_t i = 0; i < 10; i++)
        sum = mix(sum, work(i));
    GONE(leave, PROCESS_END, 3);
    GONE(wait_for_ever, PROCESS_END, 1);
    struct tally now[] = {tally_work, tally_leave, tally_wait_for_ever};
    if (option("--seconds", 0))
        now[0].entries = now[0].returns = ROUND + 10;
    say_truth(tallies, now, sum);
    hold();
}

/* exit, but the compiler does not know that it does not return. */
static void (*volatile go)(int) = exit;

PROBED void leave(uint64_t depth)
{
    ENTER(leave);
    if (depth == 0)
        go(0);
    else
        leave(depth - 1);
    LEAVE(leave);
}

int main(int argc, char **argv)
{
    pthread_t thread;
    truth_start(argc, argv);
    sem_init(&there, 0, 0);
    atexit(at_exit);
    gate();
    if (pthread_create(&thread, NULL, wait_for_ever, NULL) != 0)
        return 70;
    sem_wait(&there);
    uint64_t until = now_ns() + option("--seconds", 0) * 1000000000u;
    do
        for (uint64_t i = 0; i < ROUND; i++)
            work(i);
    while (now_ns() < until);
    leave(2);
    return 71;
}
