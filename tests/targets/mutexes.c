/* mutexes: a thread that waits for two mutexes which another one holds, and
 * knows how long.
 *
 *   --rounds N     waits for each of the two (default 10)
 *   --hold-ms M    how long each is kept while somebody waits (default 20)
 *   --free N       locks of a third one that nobody else wants (default 1000)
 *   --gate --hold
 *
 * Before the truth there is a line for each wait: which mutex, the least time
 * that it can have taken (the holder's, from when it saw that there is a
 * waiter) and the most (the waiter's, around the call). The truth: the
 * addresses of the three mutexes and of the two functions that wait, and
 * locks, how many there were in all.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "truth.h"

#define CALLER __attribute__((noinline, noclone, noipa))

static pthread_mutex_t mutex[3] = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER};
static atomic_int held;
static uint64_t took;

CALLER static void first_waiter(void)
{
    uint64_t began = now_ns();
    pthread_mutex_lock(&mutex[0]);
    took = now_ns() - began;
}

CALLER static void second_waiter(void)
{
    uint64_t began = now_ns();
    pthread_mutex_lock(&mutex[1]);
    took = now_ns() - began;
}

/* Whether a thread sleeps for it, or is about to: glibc's state 2 in the first word, musl's count of waiters in the third. */
static int waited_for(pthread_mutex_t *m)
{
    const int *words = (const int *)(const void *)m;
#ifdef __GLIBC__
    return __atomic_load_n(&words[0], __ATOMIC_RELAXED) == 2;
#else
    return __atomic_load_n(&words[2], __ATOMIC_RELAXED) != 0;
#endif
}

/* Round N is of mutex N % 2: odd values of `held` say that it is locked. */
static void *waiter(void *rounds)
{
    for (int n = 0; n < 2 * *(int *)rounds; n++) {
        while (atomic_load(&held) != 2 * n + 1)
            ;
        n % 2 ? second_waiter() : first_waiter();
        pthread_mutex_unlock(&mutex[n % 2]);
        atomic_store(&held, 2 * n + 2);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    truth_start(argc, argv);
    int rounds = (int)option("--rounds", 10);
    uint64_t hold_ms = option("--hold-ms", 20), locks = option("--free", 1000);
    gate();
    pthread_t thread;
    if (pthread_create(&thread, NULL, waiter, &rounds) != 0)
        _exit(73);
    for (uint64_t n = 0; n < locks; n++) {
        pthread_mutex_lock(&mutex[2]);
        pthread_mutex_unlock(&mutex[2]);
    }
    for (int n = 0; n < 2 * rounds; n++) {
        pthread_mutex_t *m = &mutex[n % 2];
        pthread_mutex_lock(m);
        locks += 2;
        atomic_store(&held, 2 * n + 1);
        while (!waited_for(m))
            ;
        uint64_t began = now_ns();
        sleep_ms(hold_ms);
        uint64_t least = now_ns() - began;
        pthread_mutex_unlock(m);
        while (atomic_load(&held) != 2 * n + 2)
            ;
        say("{\"mutex\":%d,\"least_ns\":%llu,\"most_ns\":%llu}", n % 2, (unsigned long long)least,
            (unsigned long long)took);
    }
    pthread_join(thread, NULL);
    say("{\"pid\":%d,\"locks\":%llu,\"mutexes\":[\"%p\",\"%p\",\"%p\"],\"waiters\":[%llu,%llu]}", (int)getpid(),
        (unsigned long long)locks, (void *)&mutex[0], (void *)&mutex[1], (void *)&mutex[2],
        (unsigned long long)(uintptr_t)first_waiter, (unsigned long long)(uintptr_t)second_waiter);
    hold();
    return 0;
}
